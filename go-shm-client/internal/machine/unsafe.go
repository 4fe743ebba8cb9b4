// Package machine is what the standard library does not offer: atomic words inside memory that another process
// maps, the processor's hint for a spin loop, and the kernel's monotonic clock.
//
// This file holds all `unsafe` of the module but for a system call in unsafe_linux.go. Bounds and alignment are checked here, once; what it hands out
// is ordinary Go (slices and pointers to sync/atomic types), so nothing else needs to be trusted.
package machine

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// EntryBytes is the size of an Entry: one ring entry, one cache line.
const EntryBytes = 64

// Entry is one ring entry in shared memory. Turn says whose Fields is; see ring.
type Entry struct {
	Turn   atomic.Uint64
	Fields [EntryBytes - 8]byte
}

var _ [EntryBytes - unsafe.Sizeof(Entry{})]byte // an Entry is exactly one entry of the layout ...
var _ [unsafe.Sizeof(Entry{}) - EntryBytes]byte // ... neither more nor less

// Entries views memory as ring entries. The view is valid as long as memory is mapped.
func Entries(memory []byte) ([]Entry, error) {
	if len(memory) == 0 || len(memory)%EntryBytes != 0 {
		return nil, fmt.Errorf("ring of %d bytes: not a multiple of %d", len(memory), EntryBytes)
	}
	start := unsafe.Pointer(unsafe.SliceData(memory))
	if uintptr(start)%EntryBytes != 0 {
		return nil, fmt.Errorf("ring at %p: not aligned to %d bytes", start, EntryBytes)
	}
	return unsafe.Slice((*Entry)(start), len(memory)/EntryBytes), nil
}

// View views memory as elements of type T, which has no pointers. The view is valid as long as memory is mapped.
func View[T any](memory []byte) ([]T, error) {
	start, size := unsafe.Pointer(unsafe.SliceData(memory)), int(unsafe.Sizeof(*new(T)))
	if len(memory)%size != 0 || uintptr(start)%unsafe.Alignof(*new(T)) != 0 {
		return nil, fmt.Errorf("%d bytes at %p: not aligned elements of %d bytes", len(memory), start, size)
	}
	return unsafe.Slice((*T)(start), len(memory)/size), nil
}

// Word32 is the 32-bit word at offset. The pointer is valid as long as memory is mapped.
func Word32(memory []byte, offset int) (*atomic.Uint32, error) {
	if offset < 0 || offset > len(memory)-4 {
		return nil, fmt.Errorf("word at %d: outside the %d bytes", offset, len(memory))
	}
	at := unsafe.Pointer(&memory[offset])
	if uintptr(at)%4 != 0 {
		return nil, fmt.Errorf("word at %d: not aligned to 4 bytes", offset)
	}
	return (*atomic.Uint32)(at), nil
}

// Offset is where in memory an address lies, if it does.
func Offset(memory []byte, address uintptr) (offset int, inside bool) {
	at := address - uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
	return int(at), at < uintptr(len(memory))
}

// AlignedBytes is zeroed heap memory that starts at a multiple of align, as a mapping does. With it rings run on
// the heap, where the race detector watches them.
func AlignedBytes(size, align int) []byte {
	memory := make([]byte, size+align)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(memory))) % uintptr(align)
	return memory[skip : int(skip)+size : int(skip)+size]
}
