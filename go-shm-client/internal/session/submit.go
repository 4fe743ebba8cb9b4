package session

import (
	"context"
	"math"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// deadlineOf is ctx's deadline as the server reads it, 0 = none.
func (l *Lane) deadlineOf(ctx context.Context) uint64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(1, l.serverTime(machine.At(deadline)))
}

// serverTime is a reading of our clock as the server's clock reads it, as far as there are such numbers.
func (l *Lane) serverTime(ours int64) uint64 {
	ahead := l.hooks.ClockAhead
	if ahead > 0 && ours > math.MaxInt64-ahead {
		return math.MaxInt64
	}
	return uint64(max(0, ours+ahead))
}

// publish hands neighbouring slots to the server, says so in w, and wakes the server if it sleeps. On an error the slots are still the
// caller's.
func (l *Lane) publish(first uint32, s []layout.Submission, w *wait) error {
	if err := l.enqueue(first, s); err != nil {
		return err
	}
	w.published = true
	l.counters.requests.Add(uint64(len(s)))
	// W1 was the store of the turn in Producer.Publish, W2 is that it is sequentially consistent, like this load and
	// the server's store of server_parked (S1) and fence (S2). Forbidden: the server's last look (S3) misses our
	// entry and our load (W3) misses its flag, so that it sleeps on a submission that is there.
	if l.words.serverParked.Load() != 0 && l.words.serverParked.Swap(0) != 0 {
		l.counters.bellsSent.Add(1)
		l.hooks.Door.Ring()
	}
	return nil
}

// enqueue places the last submission first. The server looks at the place of the first one, and finds all of them there or none.
func (l *Lane) enqueue(first uint32, all []layout.Submission) error {
	l.submitting.Lock()
	defer l.submitting.Unlock()
	if l.sealed {
		return l.failure
	}
	for i := len(all) - 1; i >= 0; i-- {
		s, slot := all[i], first+uint32(i)
		c := &l.calls[slot]
		s.RequestID = l.submissions.Tail() + uint64(i) // never twice in a session
		s.Slot = slot
		var encoded [layout.EntryBytes]byte
		s.Encode(encoded[:])
		c.requestID, c.streaming, c.taken = s.RequestID, s.Op == layout.OpRun && l.streams != nil, 0
		c.mores.Store(0)
		if c.streaming {
			l.streams[slot].reset()
		}
		c.state.Store(pending) // before the server can answer; with requestID, for the reaper's load
		l.submissions.Place(i, &encoded)
	}
	l.submissions.Advance(len(all))
	return nil
}
