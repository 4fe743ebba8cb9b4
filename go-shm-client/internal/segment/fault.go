package segment

import (
	"fmt"

	"go-shm-client/internal/machine"
)

// Fault is the error of a panic that debug.SetPanicOnFault made of a fault in memory: the server truncated the file behind it, or
// the file system had no page left. nil: the panic is about something else.
func Fault(memory []byte, thrown any) error {
	fault, ok := thrown.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		return nil
	}
	at, inside := machine.Offset(memory, fault.Addr())
	if !inside {
		return nil
	}
	return fmt.Errorf("byte %d of the %d of its segment is gone: its file was truncated, or the file system is full", at, len(memory))
}
