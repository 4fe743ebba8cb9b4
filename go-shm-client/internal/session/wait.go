package session

import (
	"context"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// Call submits an owned slot, all of it, and waits for its completion. owned says whose the slot is afterwards: false only
// when ctx ended first, and then the lane releases it once the server has completed it.
func (l *Lane) Call(ctx context.Context, slot uint32, op, flags uint16) (result layout.Completion, owned bool, err error) {
	return l.Do(ctx, slot, layout.Submission{Op: op, Flags: flags, Length: l.geometry.SlotBytes})
}

// Do is Call with any submission that is completed once. Its times are filled in.
func (l *Lane) Do(ctx context.Context, slot uint32, s layout.Submission) (result layout.Completion, owned bool, err error) {
	w, err := l.start(ctx, slot, s)
	if err != nil {
		return layout.Completion{}, true, err
	}
	if !l.await(ctx, slot, w) {
		return layout.Completion{}, false, fault.Context(ctx)
	}
	c := &l.calls[slot]
	if c.failed {
		return layout.Completion{}, true, l.failure
	}
	return c.result, true, nil
}

// wait is how a call waits for news: since when, how long it may poll, and whether it holds the reaper role for it.
type wait struct {
	began, budget int64
	reaper        bool
}

func (l *Lane) newWait() wait {
	w := wait{began: machine.Now(), budget: l.spinner.budget()}
	if w.reaper = w.budget > 0 && l.takeRole(); w.reaper {
		l.disarm()
	}
	return w
}

// start submits an owned slot. On an error, which is fault.NotRun, nothing was published and the slot is still the caller's.
func (l *Lane) start(ctx context.Context, slot uint32, s layout.Submission) (wait, error) {
	if ctx.Err() != nil {
		return wait{}, fault.As(fault.Context(ctx), fault.NotRun)
	}
	// The role is taken before the submission is published: the server then finds client_parked cleared and does not
	// ring for a client that polls.
	w := l.newWait()
	s.Deadline, s.Submitted = deadlineOf(ctx), uint64(w.began)
	if err := l.publish(slot, s); err != nil {
		if w.reaper {
			l.leaveRole()
		}
		return wait{}, fault.As(err, fault.NotRun)
	}
	l.counters.requests.Add(1)
	return w, nil
}

// await waits until there is news of the slot's call. false: ctx ended first, and the slot is not ours any more.
func (l *Lane) await(ctx context.Context, slot uint32, w wait) bool {
	if w.reaper && l.spin(ctx, slot, w.began, w.budget) {
		l.leaveRole()
	} else if !l.sleep(ctx, slot, w.reaper) {
		return false
	} else {
		l.spinner.slept(w.began)
	}
	return true
}

// sleep waits without polling until there is news of the slot's call. false: ctx ended first, and the slot is not ours any
// more. From that moment the mapping may go away, so the role is left before. reaper is whether the caller holds it.
func (l *Lane) sleep(ctx context.Context, slot uint32, reaper bool) bool {
	c := &l.calls[slot]
	l.waiters.Add(1) // before the tries for the roles, see reap.go and reader.go
	asleep := c.state.CompareAndSwap(pending, sleeping)
	if asleep && c.mores.Load() != c.taken && c.state.CompareAndSwap(sleeping, pending) {
		asleep = false // a "more" that the reaper counted before we slept; had the CAS failed, its token were ours to take
	}
	if !asleep {
		l.waiters.Add(-1)
	}
	if reaper || asleep && l.takeRole() {
		l.reap()
		l.leaveRole()
	}
	if !asleep {
		return true
	}
	l.counters.parks.Add(1)
	if l.reader.CompareAndSwap(readerNone, readerAwake) && l.readWhileAsleep(ctx, slot) {
		return true
	}
	select {
	case <-c.wake:
		return true
	case <-ctx.Done():
	}
	l.cancel(slot) // while the slot is ours
	if c.state.CompareAndSwap(sleeping, abandoned) {
		return false // still counted in waiters, so that its completion is reaped
	}
	<-c.wake // sent, or about to be
	return true
}
