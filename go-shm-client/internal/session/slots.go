package session

import (
	"context"
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// Claim takes a free slot of a server that takes new work, and waits for one until ctx ends or the lane does. Like those of
// TryClaim, each of its errors says that the call was not run, since it needs a slot first; so whoever makes the call marks them as
// fault.NotRun.
func (l *Lane) Claim(ctx context.Context) (uint32, error) {
	slot, err := l.TryClaim()
	if err != fault.RingFull {
		return slot, err
	}
	select {
	case slot := <-l.free:
		return l.claim(slot)
	case <-ctx.Done():
		return 0, fault.Context(ctx)
	case <-l.over:
		return 0, l.failure
	}
}

// TryClaim takes a free slot of a server that takes new work, or says RingFull.
func (l *Lane) TryClaim() (uint32, error) {
	select {
	case slot := <-l.free:
		return l.claim(slot)
	default:
	}
	if l.ended.Load() { // the slots were collected: they are not taken, they are no more
		return 0, l.failure
	}
	return 0, fault.RingFull
}

func (l *Lane) claim(slot uint32) (uint32, error) {
	if err := l.admit(); err != nil {
		l.Release(slot)
		return 0, err
	}
	return slot, nil
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
	l.free <- slot // has room for every slot: never blocks
	if l.ended.Load() {
		l.collect()
	}
}

// Input is the row of input i of an owned slot. It ends where the next slot's begins, and cannot be resliced into that.
func (l *Lane) Input(i int, slot uint32) []byte {
	return part(l.areas.Inputs[i], slot, l.geometry.Inputs[i].RowBytes)
}

// Output is the row of output i, which the server wrote for an owned slot.
func (l *Lane) Output(i int, slot uint32) []byte {
	return part(l.areas.Outputs[i], slot, l.geometry.Outputs[i].RowBytes)
}

// Message is why the owned slot's call failed, of which the completion says how long it is.
func (l *Lane) Message(slot uint32) []byte {
	return part(l.areas.Messages, slot, layout.MessageBytes)
}

// Said is what the server said of an owned slot's call, which done completed.
func (l *Lane) Said(slot uint32, done *layout.Completion) (message string, err error) {
	err = l.Touch(func() { message = string(l.Message(slot)[:done.MessageBytes]) })
	return message, err
}

func part(array []byte, i, bytes uint32) []byte {
	start, end := uint64(i)*uint64(bytes), (uint64(i)+1)*uint64(bytes)
	return array[start:end:end]
}

// Geometry is what the lane is made of. It does not change.
func (l *Lane) Geometry() *segment.Geometry { return &l.geometry }

// Slots is how many slots the lane has.
func (l *Lane) Slots() int { return len(l.calls) }
