package shm

import (
	"sync/atomic"

	"go-shm-client/internal/session"
)

// lease is the part of a Slot that its copies share. There is one for each slot of a session, reused by one lease
// after another, so that a reservation allocates nothing; a Slot of an earlier generation gets nowhere with it.
type lease struct {
	session *session.Session
	slot    uint32
	state   atomic.Uint64 // generation<<2 | one of the constants below
}

const (
	leaseIdle     = 0 // pixels may be written
	leaseBusy     = 1 // a call is in flight
	leaseReleased = 2 // a call is in flight, and releases the slot when it ends
)

// open begins the next generation. The caller owns the slot.
func (l *lease) open() Slot {
	generation := l.state.Load()>>2 + 1
	l.state.Store(generation<<2 | leaseIdle)
	return Slot{l, generation}
}

func (l *lease) close(generation uint64) {
	for {
		switch state := l.state.Load(); state {
		case generation<<2 | leaseIdle:
			if l.state.CompareAndSwap(state, (generation+1)<<2) {
				l.session.Release(l.slot)
				return
			}
		case generation<<2 | leaseBusy:
			if l.state.CompareAndSwap(state, generation<<2|leaseReleased) {
				return
			}
		default:
			return // over already, or about to be
		}
	}
}

func (s Slot) begin() error {
	if s.lease == nil {
		return ErrSlotReleased
	}
	idle := s.generation<<2 | leaseIdle
	for !s.lease.state.CompareAndSwap(idle, s.generation<<2|leaseBusy) {
		switch state := s.lease.state.Load(); {
		case state>>2 != s.generation || state&3 == leaseReleased:
			return ErrSlotReleased
		case state != idle:
			return ErrSlotBusy
		}
	}
	return nil
}

// end ends a call. owned says whether the slot came back from it.
func (s Slot) end(owned bool) {
	busy, released, over := s.generation<<2|leaseBusy, s.generation<<2|leaseReleased, (s.generation+1)<<2
	if owned {
		if !s.lease.state.CompareAndSwap(busy, s.generation<<2|leaseIdle) { // released meanwhile
			s.lease.state.Store(over)
			s.lease.session.Release(s.lease.slot)
		}
		return
	}
	// The slot is quarantined: the lane releases it, or has done so. It may even be leased to somebody else by now,
	// so only our own generation is ended.
	if !s.lease.state.CompareAndSwap(busy, over) {
		s.lease.state.CompareAndSwap(released, over)
	}
}
