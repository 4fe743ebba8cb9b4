package session

import (
	"context"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// Call submits an owned slot and waits for its completion. owned says whose the slot is afterwards: false only when
// ctx ended first, and then the lane releases it once the server has completed it.
func (l *Lane) Call(ctx context.Context, slot uint32, op, flags uint16) (result layout.Completion, owned bool, err error) {
	if ctx.Err() != nil {
		return layout.Completion{}, true, fault.Context(ctx)
	}
	began := machine.Now()
	// The role is taken before the submission is published: the server then finds client_parked cleared and does not
	// ring for a client that polls.
	budget := l.spinner.budget()
	reaper := budget > 0 && l.takeRole()
	if reaper {
		l.disarm()
	}
	if err := l.publish(slot, layout.Submission{Op: op, Flags: flags, Deadline: deadlineOf(ctx), Submitted: uint64(began)}); err != nil {
		if reaper {
			l.leaveRole()
		}
		return layout.Completion{}, true, err
	}
	l.counters.requests.Add(1)
	if reaper && l.spin(ctx, slot, began, budget) {
		l.leaveRole()
	} else if !l.sleep(ctx, slot, reaper) {
		return layout.Completion{}, false, fault.Context(ctx)
	} else {
		l.spinner.slept(began)
	}
	c := &l.calls[slot]
	if c.failed {
		return layout.Completion{}, true, l.failure
	}
	return c.result, true, nil
}

// sleep waits without polling until the slot's call is done. false: ctx ended first, and the slot is not ours any
// more. From that moment the mapping may go away, so the role is left before. reaper is whether the caller holds it.
func (l *Lane) sleep(ctx context.Context, slot uint32, reaper bool) bool {
	c := &l.calls[slot]
	l.waiters.Add(1) // before the try for the role, see reap.go
	asleep := c.state.CompareAndSwap(pending, sleeping)
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
	select {
	case <-c.wake:
		return true
	case <-ctx.Done():
	}
	if c.state.Swap(abandoned) != done {
		return false // still counted in waiters, so that its completion is reaped
	}
	<-c.wake // sent, or about to be
	return true
}
