package payload

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	shm "go-shm-client"
)

func TestATableComesFromItsSeedAndNoTwoPayloadsAreAlike(t *testing.T) {
	table, again, other := Random(1), Random(1), Random(2)
	for i := range table {
		if len(table[i].Bytes) != shm.PixelBytes || table[i].Checksum != shm.Checksum(table[i].Bytes) {
			t.Fatalf("entry %d: %d bytes, checksum %#x", i, len(table[i].Bytes), table[i].Checksum)
		}
		if !bytes.Equal(table[i].Bytes, again[i].Bytes) {
			t.Errorf("entry %d differs with the same seed", i)
		}
		if bytes.Equal(table[i].Bytes, other[i].Bytes) || bytes.Equal(table[i].Bytes, table[(i+1)%len(table)].Bytes) {
			t.Errorf("entry %d is like another", i)
		}
	}
	if table.At(Entries+3) != &table[3] {
		t.Error("the table does not wrap around")
	}
}

func TestLargeRowsAreFewerButTwoAtLeast(t *testing.T) {
	for size, entries := range map[int]int{64: Entries, 1 << 20: 64, 4 << 20: 16, 40 << 20: 2} {
		table := Rows(1, size)
		if len(table) != entries || len(table[0].Bytes) != size || bytes.Equal(table[0].Bytes, table[1].Bytes) {
			t.Errorf("%d bytes: %d entries, want %d that differ", size, len(table), entries)
		}
	}
	if nothing := Nothing(); len(nothing) != 1 || nothing[0].Bytes != nil {
		t.Errorf("%v", nothing)
	}
}

func TestPicturesNeedALabelEach(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pictures := write("pictures", strings.Repeat("a", shm.PixelBytes)+strings.Repeat("b", shm.PixelBytes))
	table, err := Pictures(pictures, write("labels", `["cat", "dog"]`))
	if err != nil || len(table) != 2 || table[1].Label != "dog" || table[1].Bytes[0] != 'b' {
		t.Errorf("%d pictures, %v", len(table), err)
	}
	for name, labels := range map[string]string{"fewer": `["cat"]`, "none": ``, "no list": `{}`} {
		if _, err := Pictures(pictures, write("labels", labels)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Pictures(write("cut", "abc"), write("labels", `[]`)); err == nil {
		t.Error("a file of 3 bytes: no error")
	}
}
