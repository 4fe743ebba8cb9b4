package session

import (
	"context"
	"time"
)

// The reader role is the right to read the doorbell. A caller that sleeps takes it if it is free, and then reads its own bell:
// woken by somebody else it would cost a second wake-up, and Go starts a thread to look for more work with each. The session's
// own goroutine, the background reader, has the role while nobody calls, so that the server's end is noticed, and while several
// callers sleep: for those there is always somebody to be woken by another, and passing the role on would only cost more.
//
// Why a bell is always read while somebody sleeps. A sleeper is counted in `waiters` before it tries for the role. If the try
// fails somebody has it; whoever has it leaves it, then looks at `waiters`, and calls the background reader unless that is 0. The
// try came before the leaving, the count before the try, the look after the leaving, all are sequentially consistent: the look
// sees the sleeper. The background reader, called, gets the role, or somebody else has it, who leaves it in this same way. A
// bell that nobody reads meanwhile stays in the socket.
//
// A caller who has the role waits at the socket, not at its channel. Whoever wakes it sends its token as to any sleeper, then
// looks who has the role, and interrupts it. It says that it has the role, then looks at its state, then waits: one of the two
// sees the other. An interrupt may come late, and hit the next reader, or nobody: whoever is woken looks again.
const (
	readerNone  int64 = iota
	readerAwake       // taken, by a caller that is awake or by the background reader: needs no interrupt
	readerSlots       // + a slot: its owner waits at the socket
)

// soloBells is how many bells in a row have to be for one caller before the background reader leaves the role to it.
const soloBells = 8

// idleBeforeReading is how long nobody reads before the background reader does. Until then the end of an idle session is not
// noticed; calls that are made more often than that read their own bells.
const idleBeforeReading = 10 * time.Millisecond

// readWhileAsleep reads the doorbell while the owner of slot sleeps. It has the reader role, and leaves it. true: the owner was
// woken, its token is taken.
func (l *Lane) readWhileAsleep(ctx context.Context, slot uint32) (woken bool) {
	c := &l.calls[slot]
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, l.hooks.Door.Interrupt)()
	}
	several := false
	for over := false; ; {
		l.reader.Store(readerSlots + int64(slot))
		if c.state.Load() != sleeping || over || ctx.Err() != nil {
			break
		}
		var bells int
		bells, over = l.hooks.Door.Wait()
		l.reader.Store(readerAwake)
		if bells > 0 {
			l.bellsRead.Add(1)
			l.counters.bellsReceived.Add(uint64(bells))
			several = l.Bell() > 1
		}
	}
	woken = c.state.Load() != sleeping
	l.leaveReading()
	if several {
		l.callReader()
	}
	if woken {
		<-c.wake // sent, or about to be
	}
	return woken
}

// leaveReading leaves the reader role, see above.
func (l *Lane) leaveReading() {
	l.reader.Store(readerNone)
	if l.waiters.Load() > 0 {
		l.callReader()
	}
}

// interruptReader interrupts the owner of slot, to whom a token was sent, if it waits at the socket.
func (l *Lane) interruptReader(slot uint32) {
	if l.reader.Load() == readerSlots+int64(slot) {
		l.hooks.Door.Interrupt()
	}
}

// callReader has the background reader try for the role.
func (l *Lane) callReader() {
	select {
	case l.readerCalled <- struct{}{}:
	default: // it was called already
	}
}

// ReadInBackground is the background reader. It returns when the session is over, and keeps the role.
func (l *Lane) ReadInBackground() {
	timer := time.NewTimer(idleBeforeReading)
	defer timer.Stop()
	for last := uint64(0); ; {
		select {
		case <-l.readerCalled:
		case <-timer.C:
			if now := l.bellsRead.Load(); now != last {
				last = now
				timer.Reset(idleBeforeReading)
				continue
			}
		}
		if l.reader.CompareAndSwap(readerNone, readerAwake) && l.readForSeveral() {
			return
		}
		timer.Reset(idleBeforeReading)
	}
}

// readForSeveral reads the doorbell until there is one caller at most. It has the role, and leaves it unless the session is over.
func (l *Lane) readForSeveral() (over bool) {
	for solo := 0; solo < soloBells; {
		bells, over := l.hooks.Door.Wait()
		if bells > 0 {
			l.counters.bellsReceived.Add(uint64(bells))
			if solo++; l.Bell() > 1 || l.waiters.Load() > 0 {
				solo = 0
			}
		}
		if over {
			return true
		}
	}
	l.leaveReading()
	return false
}
