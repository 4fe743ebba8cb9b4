package session

import (
	"context"
	"runtime/debug"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// Do submits owned slots, neighbours from first on, and waits for their completions, of which Result says what they are: each of s
// says the operation and the extent, its times are filled in. An error is fault.NotRun, and then nothing was submitted, or
// fault.Quarantined: ctx ended first, and the lane releases the slots once the server has completed them.
func (l *Lane) Do(ctx context.Context, first uint32, s []layout.Submission) error {
	w, news, err := l.attempt(ctx, first, s, true)
	if err != nil {
		return err
	}
	for i := range s {
		slot := first + uint32(i)
		if i > 0 {
			if l.calls[slot].state.Load() == done { // with the ones before
				continue
			}
			w = wait{}
			news = l.poll(ctx, slot, &w)
		}
		if !l.await(ctx, slot, w, news) {
			l.giveUp(first, i, len(s))
			return fault.As(fault.Context(ctx), fault.Quarantined)
		}
	}
	return nil
}

// giveUp leaves n owned slots in flight, of which number `given` is not ours any more and those before it are done.
func (l *Lane) giveUp(first uint32, given, n int) {
	for i := range n {
		slot := first + uint32(i)
		if i < given || i > given && !l.abandon(slot) {
			l.Release(slot)
		}
	}
}

// Result is what the server answered to the call of an owned slot, or why it did not. Valid once Do has returned without an error.
func (l *Lane) Result(slot uint32) (layout.Completion, error) {
	c := &l.calls[slot]
	if c.failed {
		return layout.Completion{}, l.failure
	}
	return c.result, nil
}

// wait is how a call waits for news: since when, how long it may poll, whether it holds the reaper role for it, and whether the
// server has been given the call.
type wait struct {
	began, budget     int64
	reaper, published bool
}

// begin begins to wait, and takes the role where polling may pay. It touches the memory.
func (l *Lane) begin(w *wait) {
	w.began, w.budget = machine.Now(), l.spinner.budget()
	if w.reaper = w.budget > 0 && l.takeRole(); w.reaper {
		l.disarm()
	}
}

// attempt submits owned slots, and polls for news of the first where that may pay. On an error, which is fault.NotRun, nothing was
// published and the slots are still the caller's.
func (l *Lane) attempt(ctx context.Context, first uint32, s []layout.Submission, poll bool) (w wait, news bool, err error) {
	if ctx.Err() != nil {
		return wait{}, false, fault.As(fault.Context(ctx), fault.NotRun)
	}
	deadline := l.deadlineOf(ctx)
	defer l.attemptCaught(debug.SetPanicOnFault(true), first, len(s), &w, &err)
	// The role is taken before the submission is published: the server then finds client_parked cleared and does not
	// ring for a client that polls.
	l.begin(&w)
	submitted := l.serverTime(w.began)
	for i := range s {
		s[i].Deadline, s[i].Submitted = deadline, submitted
	}
	if err := l.publish(first, s, &w); err != nil {
		if w.reaper {
			l.leaveRole()
		}
		return wait{}, false, fault.As(err, fault.NotRun)
	}
	return w, poll && w.reaper && l.spin(ctx, first, w.began, w.budget), nil
}

// poll begins to wait unless w has, and polls for news where that may pay.
func (l *Lane) poll(ctx context.Context, slot uint32, w *wait) (news bool) {
	defer l.holderCaught(debug.SetPanicOnFault(true), &w.reaper)
	if w.began == 0 {
		l.begin(w)
	}
	return w.reaper && l.spin(ctx, slot, w.began, w.budget)
}

// await waits until there is news of the slot's call, unless there is. false: ctx ended first, and the slot is not ours any more.
func (l *Lane) await(ctx context.Context, slot uint32, w wait, news bool) bool {
	if news {
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
		l.reapGuarded()
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
