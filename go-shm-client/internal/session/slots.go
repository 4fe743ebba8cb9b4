package session

import (
	"context"
	"fmt"
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// Claim takes n free slots, neighbours, of a server that takes new work, and waits for them until ctx ends or the lane does. It returns
// the first. Like those of TryClaim, each of its errors says that the call was not run, since it needs a slot first; so whoever makes
// the call marks them as fault.NotRun.
func (l *Lane) Claim(ctx context.Context, n int) (first uint32, err error) {
	if first, err = l.TryClaim(n); err != fault.RingFull {
		return first, err
	}
	first, claimant := l.free.queue(n)
	if claimant == nil {
		return l.claim(first, n)
	}
	select {
	case first := <-claimant.first:
		return l.claim(first, n)
	case <-ctx.Done():
		err = fault.Context(ctx)
	case <-l.over:
		err = l.failure
	}
	if first, given := l.free.leave(claimant); given {
		l.release(first, n)
	}
	return 0, err
}

// TryClaim takes n free slots, neighbours, of a server that takes new work, or says RingFull. It returns the first.
func (l *Lane) TryClaim(n int) (first uint32, err error) {
	if n < 1 || n > len(l.calls) {
		err := fmt.Errorf("a batch of %d, expected 1 to %d: that is how many slots the session has", n, len(l.calls))
		return 0, fault.As(fault.As(err, fault.Tensor), fault.NotRun)
	}
	if first, ok := l.free.take(n); ok {
		return l.claim(first, n)
	}
	if l.ended.Load() { // the slots were collected: they are not taken, they are no more
		return 0, l.failure
	}
	return 0, fault.RingFull
}

func (l *Lane) claim(first uint32, n int) (uint32, error) {
	if err := l.admit(); err != nil {
		l.release(first, n)
		return 0, err
	}
	return first, nil
}

// admit says whether a slot just taken may be used. The mapping is touched only after ended was seen
// false with the slot in hand: collect waits for this slot, so it stays mapped until the slot is released.
func (l *Lane) admit() (err error) {
	defer l.caught(debug.SetPanicOnFault(true), &err)
	if l.ended.Load() {
		return l.failure
	}
	// Acquire: pairs with the server's release store when it begins to drain (ring_announce_draining).
	if l.words.serverState.Load() != layout.ServerStateServing {
		return fault.Draining
	}
	return nil
}

// Release gives back a slot that the caller owns. It touches the slot and its bytes no more.
func (l *Lane) Release(slot uint32) {
	l.calls[slot].state.Store(idle)
	l.putBack(slot)
}

func (l *Lane) release(first uint32, n int) {
	for slot := range uint32(n) {
		l.Release(first + slot)
	}
}

// putBack puts an idle slot back. Everybody who touches the memory holds a slot meanwhile (or is the goroutine that runs End, which
// is through with it before the last one is gone), so after the last one of a lane that has ended nobody does: a lease that is being
// filled keeps the memory mapped.
func (l *Lane) putBack(slot uint32) {
	if l.free.put(slot) {
		l.hooks.Unmap()
	}
}

// Input is the rows of input i of owned slots, n of them from first on. They end where the next slot's begins, and cannot be resliced
// into that.
func (l *Lane) Input(i int, first, n uint32) []byte {
	return part(l.areas.Inputs[i], first, n, l.geometry.Inputs[i].RowBytes)
}

// Output is the rows of output i, which the server wrote for owned slots.
func (l *Lane) Output(i int, first, n uint32) []byte {
	return part(l.areas.Outputs[i], first, n, l.geometry.Outputs[i].RowBytes)
}

// Message is why the owned slot's call failed, of which the completion says how long it is.
func (l *Lane) Message(slot uint32) []byte {
	return part(l.areas.Messages, slot, 1, layout.MessageBytes)
}

// Said is what the server said of an owned slot's call, which done completed.
func (l *Lane) Said(slot uint32, done *layout.Completion) (message string, err error) {
	err = l.Touch(func() { message = string(l.Message(slot)[:done.MessageBytes]) })
	return message, err
}

func part(array []byte, first, n, bytes uint32) []byte {
	start, end := uint64(first)*uint64(bytes), (uint64(first)+uint64(n))*uint64(bytes)
	return array[start:end:end]
}

// Geometry is what the lane is made of. It does not change.
func (l *Lane) Geometry() *segment.Geometry { return &l.geometry }

// Slots is how many slots the lane has.
func (l *Lane) Slots() int { return len(l.calls) }
