package session

import (
	"context"
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Take takes a free slot for CallWith, and waits for one until ctx ends or the lane does. Nothing is known of the server's state
// yet. Like those of the three functions below it, each of its errors says that the call was not run, since it needs a slot first;
// so whoever makes the call marks them as fault.NotRun.
func (l *Lane) Take(ctx context.Context) (uint32, error) {
	slot, err := l.TryTake()
	if err != fault.RingFull {
		return slot, err
	}
	select {
	case slot := <-l.free:
		return slot, nil
	case <-ctx.Done():
		return 0, fault.Context(ctx)
	case <-l.over:
		return 0, l.failure
	}
}

// TryTake takes a free slot, or says RingFull.
func (l *Lane) TryTake() (uint32, error) {
	select {
	case slot := <-l.free:
		return slot, nil
	default:
	}
	if l.ended.Load() { // the slots were collected: they are not taken, they are no more
		return 0, l.failure
	}
	return 0, fault.RingFull
}

// Claim takes a free slot of a server that takes new work, and waits for one until ctx ends or the lane does.
func (l *Lane) Claim(ctx context.Context) (uint32, error) { return l.claim(l.Take(ctx)) }

// TryClaim takes a free slot of a server that takes new work, or says RingFull.
func (l *Lane) TryClaim() (uint32, error) { return l.claim(l.TryTake()) }

func (l *Lane) claim(slot uint32, err error) (uint32, error) {
	if err != nil {
		return 0, err
	}
	if err := l.admitGuarded(slot); err != nil {
		l.Release(slot)
		return 0, err
	}
	return slot, nil
}

func (l *Lane) admitGuarded(slot uint32) (err error) {
	defer l.caught(debug.SetPanicOnFault(true), &err)
	return l.admit()
}

// admit says whether a slot just taken may be used. The mapping is touched only after ended was seen
// false with the slot in hand: collect waits for this slot, so it stays mapped until the slot is released.
func (l *Lane) admit() error {
	if l.ended.Load() {
		return l.failure
	}
	// Acquire: pairs with the server's release store when it begins to drain (ring_announce_draining).
	if l.words.serverState.Load() != layout.ServerStateServing {
		return fault.Draining
	}
	return nil
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

// SlotBytes is how many bytes a slot has.
func (l *Lane) SlotBytes() int { return int(l.geometry.SlotBytes) }

// Slots is how many slots the lane has.
func (l *Lane) Slots() int { return len(l.calls) }
