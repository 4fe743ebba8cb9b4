package session

import (
	"context"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Claim takes a free slot, and waits for one until ctx ends or the lane does. Like TryClaim's, each of its errors says that
// the call was not run, since it needs a slot first; so whoever makes the call marks them as fault.NotRun.
func (l *Lane) Claim(ctx context.Context) (uint32, error) {
	slot, err := l.TryClaim()
	if err != fault.RingFull {
		return slot, err
	}
	select {
	case slot := <-l.free:
		return l.admit(slot)
	case <-ctx.Done():
		return 0, fault.Context(ctx)
	case <-l.over:
		return 0, l.failure
	}
}

// TryClaim takes a free slot, or says RingFull.
func (l *Lane) TryClaim() (uint32, error) {
	select {
	case slot := <-l.free:
		return l.admit(slot)
	default:
	}
	if l.ended.Load() { // the slots were collected: they are not taken, they are no more
		return 0, l.failure
	}
	return 0, fault.RingFull
}

// admit gives a slot just taken back where it must not be used. The mapping is touched only after ended was seen
// false with the slot in hand: collect waits for this slot, so it stays mapped until the slot is released.
func (l *Lane) admit(slot uint32) (uint32, error) {
	if l.ended.Load() {
		l.Release(slot)
		return 0, l.failure
	}
	// Acquire: pairs with the server's release store when it begins to drain (ring_announce_draining).
	if l.words.serverState.Load() != layout.ServerStateServing {
		l.Release(slot)
		return 0, fault.Draining
	}
	return slot, nil
}

// Release gives back a slot that the caller owns. It touches the slot, its bytes and its reply no more.
func (l *Lane) Release(slot uint32) {
	l.calls[slot].state.Store(idle)
	l.free <- slot // has room for every slot: never blocks
	if l.ended.Load() {
		l.collect()
	}
}

// Slot is the bytes of an owned slot. They end where the next slot begins, and cannot be resliced into it.
func (l *Lane) Slot(slot uint32) []byte { return part(l.slots, slot, l.geometry.SlotBytes) }

// Reply is the bytes that the server wrote for an owned slot; how many of them are valid says the completion.
func (l *Lane) Reply(slot uint32) []byte { return part(l.replies, slot, l.geometry.ReplyBytes) }

func part(array []byte, i, bytes uint32) []byte {
	start, end := uint64(i)*uint64(bytes), (uint64(i)+1)*uint64(bytes)
	return array[start:end:end]
}

// Slots is how many slots the lane has.
func (l *Lane) Slots() int { return len(l.calls) }
