package session

import (
	"fmt"
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/segment"
)

// The server can truncate the segment's file, on purpose or by dying on a full disk. Who touches a page that is gone gets a
// SIGBUS, which ends a Go program; debug.SetPanicOnFault makes it a panic of that goroutine. So each function that touches
// the memory begins with
//
//	defer l.caught(debug.SetPanicOnFault(true), &err)
//
// or one of the functions below it, which leave its role. A fault then is like a broken protocol: the session ends, and
// End fails the calls in flight. A fault elsewhere is somebody else's, and goes on as a panic.
//
// A guard takes some 8 ns, and a call that finds its answer by polling passes one for each of its steps: the slot is claimed, its
// inputs are written, it is run, its outputs are read. The alternative, a sealed segment, costs
// nothing here, but POSIX shared memory has no seals, and a seal does not help against a full file system. Under the race detector
// an atomic access happens in C code, where a fault can not be caught.
func (l *Lane) caught(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if thrown := recover(); thrown != nil {
		*err = l.lost(thrown)
	}
}

// holderCaught is for a holder of the reaper role: nothing more is read, and the role is left as usual.
func (l *Lane) holderCaught(old bool, held *bool) {
	debug.SetPanicOnFault(old)
	if thrown := recover(); thrown != nil {
		_ = l.lost(thrown) // End fails every call with it
		if *held {
			l.poisoned = true
		}
	}
}

// attemptCaught is for attempt: what was published is in flight, and End fails it; what was not is the caller's.
func (l *Lane) attemptCaught(old bool, first uint32, n int, w *wait, err *error) {
	debug.SetPanicOnFault(old)
	thrown := recover()
	if thrown == nil {
		return
	}
	lost := l.lost(thrown)
	if w.reaper {
		l.poisoned = true
	}
	if w.published {
		return
	}
	// The entries were being written. Should a server have answered them all the same, or End have failed them, they are done, and
	// without a token, since they were pending.
	for slot := range uint32(n) {
		l.calls[first+slot].state.CompareAndSwap(pending, idle)
	}
	if w.reaper {
		l.leaveRole()
	}
	*err = fault.As(lost, fault.NotRun)
}

// lost ends the session because its memory is gone. A panic about anything else goes on.
func (l *Lane) lost(thrown any) error {
	gone := segment.Fault(l.memory, thrown)
	if gone == nil {
		panic(thrown)
	}
	l.hooks.Broken(gone)
	return fmt.Errorf("%w: %w", fault.ServerGone, gone)
}

// Touch runs f, which touches the bytes of slots that the caller owns. It is Intact, too: without an error, f has read what the
// server wrote.
func (l *Lane) Touch(f func()) error {
	if err := l.touch(f); err != nil {
		return err
	}
	return l.Intact()
}

func (l *Lane) touch(f func()) (err error) {
	defer l.caught(debug.SetPanicOnFault(true), &err)
	f()
	return nil
}
