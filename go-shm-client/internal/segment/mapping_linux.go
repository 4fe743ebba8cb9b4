package segment

import (
	"fmt"
	"syscall"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Map maps the size bytes of descriptor fd and leaves fd to the caller, who may close it: a mapping outlives its
// descriptor. All pages are populated now, so that no request pays for a page fault.
func Map(fd int, size uint64) ([]byte, error) {
	if size < layout.HeaderBytes || size > layout.MaxSegmentBytes {
		return nil, fault.Violated("geometry", "segment of %d bytes, not %d to %d", size, layout.HeaderBytes, layout.MaxSegmentBytes)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("stat segment: %w", err)
	}
	// A file that ends before the mapping does would kill us with SIGBUS at the first touch.
	if stat.Mode&syscall.S_IFMT != syscall.S_IFREG || stat.Size < 0 || uint64(stat.Size) < size {
		return nil, fault.Violated("geometry", "file of %d bytes (mode %#o) for a segment of %d", stat.Size, stat.Mode, size)
	}
	memory, err := syscall.Mmap(fd, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map segment: %w", err)
	}
	return memory, nil
}

// Unmap ends the mapping. Nobody may touch memory, or anything cut out of it, afterwards.
func Unmap(memory []byte) error {
	if err := syscall.Munmap(memory); err != nil {
		return fmt.Errorf("unmap segment: %w", err)
	}
	return nil
}
