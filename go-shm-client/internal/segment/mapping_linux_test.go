package segment

import (
	"errors"
	"os"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

func sharedFile(t *testing.T, size int64) *os.File {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "segment")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAMappingOutlivesItsDescriptor(t *testing.T) {
	file := sharedFile(t, 2*layout.PageBytes)
	memory, err := Map(int(file.Fd()), 2*layout.PageBytes)
	if err != nil {
		t.Fatal(err)
	}
	memory[layout.PageBytes] = 42
	var seen [1]byte
	if _, err := file.ReadAt(seen[:], layout.PageBytes); err != nil || seen[0] != 42 {
		t.Errorf("the file holds %d, %v", seen[0], err)
	}
	file.Close()
	if memory[layout.PageBytes] != 42 {
		t.Error("the mapping went with the descriptor")
	}
	if err := Unmap(memory); err != nil {
		t.Error(err)
	}
}

func TestAFileThatWouldKillUsIsNotMapped(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	file := sharedFile(t, 2*layout.PageBytes)
	for _, bad := range []struct {
		name string
		fd   uintptr
		size uint64
	}{
		{"a file shorter than the segment", file.Fd(), 2*layout.PageBytes + 1},
		{"a segment smaller than a header", file.Fd(), layout.PageBytes - 1},
		{"a segment of 0 bytes", file.Fd(), 0},
		{"a segment larger than allowed", file.Fd(), layout.MaxSegmentBytes + 1},
		{"a segment of 2^64-1 bytes", file.Fd(), ^uint64(0)},
		{"a pipe", read.Fd(), layout.PageBytes},
	} {
		if _, err := Map(int(bad.fd), bad.size); !errors.Is(err, fault.Protocol) {
			t.Errorf("%s: %v", bad.name, err)
		}
	}
	if _, err := Map(-1, layout.PageBytes); err == nil {
		t.Error("no descriptor at all: mapped")
	}
}
