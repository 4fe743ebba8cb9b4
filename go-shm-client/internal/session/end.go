package session

import (
	"runtime"
	"time"
)

// beginEnd makes everybody leave the reaper role and nobody else take it. End must follow.
func (l *Lane) beginEnd() { l.ending.Store(true) }

// Intact is whether what was copied out of the memory until now is what the server wrote; otherwise it is why the lane ended.
// A server takes the pages of a client that hangs up back, and they read as zeros from then on (layout.md, "The doorbell").
// left is set before we do: who finds it unset has copied before.
func (l *Lane) Intact() error {
	if !l.left.Load() {
		return nil
	}
	<-l.over // End follows
	return l.failure
}

// End ends the lane: what the server has answered is delivered, every other call in flight fails with failure, and so
// does everything that comes later. It is called once, by the goroutine of the background reader, when that has returned.
//
// It keeps the reaper role for good. So after its last reap nothing is delivered but failures, by the same finish
// that delivers completions: each call in flight is finished exactly once, whether its owner spins, sleeps or has
// left. Nothing comes to be in flight behind its back, since sealed is set under the submission's mutex before it
// looks.
func (l *Lane) End(failure error) {
	l.beginEnd()
	for tries := 0; !l.reaping.CompareAndSwap(false, true); tries++ {
		if runtime.Gosched(); tries > 100 { // the holder was put off its processor
			time.Sleep(20 * time.Microsecond)
		}
	}
	l.reapGuarded()
	l.failure = failure
	l.submitting.Lock()
	l.sealed = true
	l.submitting.Unlock()
	l.ended.Store(true) // before abandoned slots come back: nobody claims them any more
	close(l.over)
	for slot := range l.calls {
		// A load is enough: only a holder of the role takes a call out of flight, and that is us.
		if c := &l.calls[slot]; inFlight(c.state.Load()) {
			c.failed = true
			l.finish(uint32(slot))
		}
	}
	// From here on whoever puts a slot back puts it back for good, a Claim that finds one too, since it sees ended and releases it.
	if l.free.end() {
		l.hooks.Unmap()
	}
}
