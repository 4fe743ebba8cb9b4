package machine

import (
	"syscall"
	"unsafe"
)

// monotonic reads CLOCK_MONOTONIC, which both processes stamp requests with, by a system call: the runtime reads
// the same clock faster, but shows only differences.
func monotonic() int64 {
	const clockMonotonic = 1
	var now syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic("machine: read CLOCK_MONOTONIC: " + errno.Error()) // no Linux lacks it
	}
	return now.Nano()
}
