package session

import (
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// The reaper role is the right to read the completion ring. Whoever holds it delivers everybody's completions. It is
// tried for, never waited for (only End waits), so at most one goroutine polls and none queues up behind it.
//
// Why no completion lies in the ring while somebody sleeps. A call that nobody polls for is counted in `waiters` before
// its owner tries for the role. While the role is held, its holder is responsible. Having let go of it, the holder
// looks at `waiters`.
//
//   - It is 0. Then nobody relies on us: a caller whose try for the role failed because of us counted itself before
//     the try, the try came before the store that let go, and that store before our look (all are sequentially
//     consistent), so we would have seen it. Callers that try later get the role, or fail because of another holder.
//   - It is not. Then client_parked is stored as 1, and the ring is looked at once more. A completion is there: we try
//     for the role and reap it; should the try fail, somebody else holds the role, who will leave it in this same way.
//     None is there: one that comes later finds the flag, by the argument at leaveRole, and rings. Whoever reads the
//     doorbell (reader.go) then gets the role, or fails because of another holder, again one who has yet to leave.
//
// The flag must be armed after the role is left, not before: the bell could be answered in between, the try for the
// role fail because of us, and the bell be gone. (model_test.go found that, and tries every interleaving of this.)
//
// A holder who polls needs no bells and clears the flag, which others may have armed: it is responsible now. When the
// lane is ending, nobody takes the role but End, which reaps what is there and fails the rest.

// takeRole tries for the reaper role.
func (l *Lane) takeRole() bool {
	return !l.reaping.Load() && !l.ending.Load() && l.reaping.CompareAndSwap(false, true)
}

// disarm stops the server from ringing for a holder of the role who polls. The flag is only written when it is set:
// its line is shared with the server.
func (l *Lane) disarm() {
	if l.words.clientParked.Load() != 0 {
		l.words.clientParked.Store(0)
	}
}

// leaveRole lets go of the role, see above. The caller holds it, and a slot (or it is the background reader),
// so that the memory stays mapped.
func (l *Lane) leaveRole() {
	for held := true; held; {
		head, poisoned := l.completions.Head(), l.poisoned
		l.reaping.Store(false)
		if poisoned || l.waiters.Load() == 0 { // poisoned: the lane is ending, nothing more is read
			return
		}
		held = l.lookAgain(head)
	}
}

// lookAgain arms client_parked and looks at the ring once more, from head on. What it finds it reaps, and then holds the role.
func (l *Lane) lookAgain(head uint64) (held bool) {
	defer l.holderCaught(debug.SetPanicOnFault(true), &held)
	// S1 and S2: a sequentially consistent store. Forbidden: our last look (S3) misses a completion whose
	// publication (W1) the server fenced (W2) before its load of client_parked (W3) missed this store.
	l.words.clientParked.Store(1)
	// S3. What somebody else has taken since then counts as there: they hold the role, or have left it in turn.
	if l.completions.EmptyAt(head) || !l.takeRole() {
		return false
	}
	held = true
	l.disarm()
	l.reap()
	return held
}

// Bell reaps what the server rang for, and says how many completions that were. Whoever reads the doorbell calls it.
func (l *Lane) Bell() (reaped int) {
	if l.takeRole() { // otherwise the holder looks at the ring after it has left
		reaped = l.reapGuarded()
		l.leaveRole()
	}
	return reaped
}

// reapGuarded is reap where nobody has seen to faults.
func (l *Lane) reapGuarded() (reaped int) {
	held := true
	defer l.holderCaught(debug.SetPanicOnFault(true), &held)
	return l.reap()
}

// reap delivers every completion in the ring, and says how many those were. The caller holds the role.
func (l *Lane) reap() (reaped int) {
	var private [layout.EntryBytes]byte
	for ; !l.poisoned; reaped++ {
		some, err := l.completions.Take(&private)
		if err == nil && !some {
			break
		}
		if err == nil {
			err = l.deliver(layout.DecodeCompletion(private[:]))
		}
		if err != nil {
			l.poisoned = true
			l.hooks.Broken(err)
		}
	}
	return reaped
}

// checkCompletion checks what a completion says, as far as the geometry tells.
func checkCompletion(g *segment.Geometry, c layout.Completion) error {
	last, bound := uint16(layout.StatusModelError), segment.Bound(g.Inputs) // of a call lane
	if g.Lane.Protocol == layout.ProtocolStream {
		last, bound = uint16(len(layout.StatusName)-1), segment.Bound(g.Outputs)
	}
	switch {
	case c.Slot >= g.Lane.SlotCount:
		return fault.Violated("slot", "completion of slot %d, the lane has %d", c.Slot, g.Lane.SlotCount)
	case c.Status > last:
		return fault.Violated("status", "completion with status %d", c.Status)
	case c.Extent > bound:
		return fault.Violated("extent", "completion of slot %d with an extent of %d, the bound is %d", c.Slot, c.Extent, bound)
	case c.MessageBytes > layout.MessageBytes:
		return fault.Violated("message", "message of %d bytes, %d fit", c.MessageBytes, layout.MessageBytes)
	}
	return nil
}

// deliver checks a private copy of a completion and finishes its call.
func (l *Lane) deliver(c layout.Completion) error {
	if err := checkCompletion(&l.geometry, c); err != nil {
		return err
	}
	call := &l.calls[c.Slot]
	if !inFlight(call.state.Load()) {
		return fault.Violated("slot", "completion of slot %d, which is not in flight", c.Slot)
	}
	if c.RequestID != call.requestID {
		return fault.Violated("request_id", "completion of request %d in slot %d, which holds request %d", c.RequestID, c.Slot, call.requestID)
	}
	if c.Status == layout.StatusMore {
		if !call.streaming {
			return fault.Violated("status", "there is more of slot %d, which holds no prompt", c.Slot)
		}
		l.more(c.Slot)
		return nil
	}
	call.result = c
	l.finish(c.Slot)
	return nil
}

// more tells a call in flight that there is more text; see the states in call.go.
func (l *Lane) more(slot uint32) {
	c := &l.calls[slot]
	c.mores.Add(1) // before the look whether its owner sleeps
	if c.state.CompareAndSwap(sleeping, pending) {
		l.waiters.Add(-1)
		c.wake <- struct{}{}
		l.interruptReader(slot)
	}
}

// finish moves a call in flight to done; see the states in call.go.
func (l *Lane) finish(slot uint32) {
	c := &l.calls[slot]
	switch c.state.Swap(done) {
	case sleeping:
		l.waiters.Add(-1)
		c.wake <- struct{}{}
		l.interruptReader(slot)
	case abandoned:
		l.waiters.Add(-1)
		c.state.Store(idle)
		l.putBack(slot)
	}
}
