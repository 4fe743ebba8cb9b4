// Package payload is the table of what is sent: every call sends another entry, and every answer is checked.
//
//	table := payload.Random(seed)                    // for echoes
//	table, err := payload.Pictures(file, labels)   // for classify, labels by an in-process reference run
//	entry := table.At(i)
//	table := payload.Rows(seed, size)
//	table := payload.Texts(seed)                     // for echoes of text
//	prompts, err := payload.Prompts(file)
package payload

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"

	shm "go-shm-client"
)

// Entries of a table for echoes: 192 KiB, so that a payload comes from the second-level cache, as fresh pixels would.
const Entries = 64

// rowsBytes is what a table of large rows takes at most.
const rowsBytes = 64 << 20

// textBytes become 200 characters of base64.
const textBytes = 150

// Entry is one payload and what its answer must be.
type Entry struct {
	Bytes    []byte
	Checksum uint64 // of layout.md, "Checksum"
	Label    string // "" where no reference is known
	Text     string // Bytes in base64: what HTTP and JSON carry in their place
}

// Table is what the callers go through in turn.
type Table []Entry

// At is the entry of call i; it wraps around.
func (t Table) At(i int) *Entry { return &t[i%len(t)] }

// Random is a table of random bytes, as compressible as pixels of a camera: not at all.
func Random(seed uint64) Table { return random(seed, shm.PixelBytes, Entries) }

// Rows is a table of random rows of so many bytes: fewer of the large ones, but two at least.
func Rows(seed uint64, size int) Table {
	return random(seed, size, max(2, min(Entries, rowsBytes/size)))
}

// Nothing is a table of one payload that is not there.
func Nothing() Table { return Table{{}} }

// Texts is a table of texts of 200 bytes.
func Texts(seed uint64) Table {
	table := random(seed, textBytes, Entries)
	for i := range table {
		table[i].Text = base64.StdEncoding.EncodeToString(table[i].Bytes)
	}
	return table
}

func random(seed uint64, size, entries int) Table {
	random := rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), seed)))
	table := make(Table, entries)
	for i := range table {
		bytes := make([]byte, size)
		_, _ = random.Read(bytes) // never fails
		table[i] = Entry{Bytes: bytes, Checksum: shm.Checksum(bytes)}
	}
	return table
}

// Pictures reads a file of pictures, 3,072 bytes each, and a JSON array with the label of each of them.
func Pictures(file, labels string) (Table, error) {
	bytes, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read pictures: %w", err)
	}
	if len(bytes) == 0 || len(bytes)%shm.PixelBytes != 0 {
		return nil, fmt.Errorf("read pictures: %s has %d bytes, not a multiple of %d", file, len(bytes), shm.PixelBytes)
	}
	encoded, err := os.ReadFile(labels)
	if err != nil {
		return nil, fmt.Errorf("read labels: %w", err)
	}
	var names []string
	if err := json.Unmarshal(encoded, &names); err != nil {
		return nil, fmt.Errorf("read labels: %s: %w", labels, err)
	}
	table := make(Table, len(bytes)/shm.PixelBytes)
	if len(names) != len(table) {
		return nil, fmt.Errorf("read labels: %s has %d for %d pictures", labels, len(names), len(table))
	}
	for i := range table {
		picture := bytes[i*shm.PixelBytes:][:shm.PixelBytes]
		table[i] = Entry{Bytes: picture, Checksum: shm.Checksum(picture), Label: names[i]}
	}
	return table, nil
}
