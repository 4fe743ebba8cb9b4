package session

import (
	"context"
	"time"
)

// The ear is the right to read the doorbell. A caller that sleeps takes it if it is free, and then reads its own bell: woken by
// somebody else it would cost a second wake-up, and Go starts a thread to look for more work with each. A goroutine of the
// session's, the attendant, has it while nobody calls, so that the server's end is noticed, and while several callers sleep:
// for those there is always somebody to be woken by another, and passing the ear around would only cost more.
//
// Why a bell is always read while somebody sleeps. A sleeper is counted in `waiters` before it tries for the ear. If the try
// fails somebody has it; whoever has it lets go of it, then looks at `waiters`, and calls the attendant unless that is 0. The
// try came before the letting go, the count before the try, the look after the letting go, all are sequentially consistent:
// the look sees the sleeper. The attendant, called, gets the ear, or somebody else has it, who leaves it in this same way. A
// bell that nobody reads meanwhile stays in the socket.
//
// A caller who has the ear waits at the socket, not at its channel. Whoever wakes it sends its token as to any sleeper, then
// looks who has the ear, and interrupts it. It says that it has the ear, then looks at its state, then waits: one of the two
// sees the other. An interrupt may come late, and hit the next one who listens, or nobody: whoever is woken looks again.
const (
	earFree  int64 = iota
	earAwake       // taken, by somebody who is awake or by the attendant: needs no interrupt
	earSlots       // + a slot: its owner waits at the socket
)

// aloneFor is how many bells in a row have to be for one caller alone before the attendant leaves the ear to it.
const aloneFor = 8

// lull is how long nobody listens before the attendant does. Until then the end of an idle session is not noticed; calls that
// are made more often than that read their own bells.
const lull = 10 * time.Millisecond

// listen reads the doorbell while the owner of slot sleeps. It has the ear, and leaves it. true: the owner was woken, its
// token is taken.
func (l *Lane) listen(ctx context.Context, slot uint32) (woken bool) {
	c := &l.calls[slot]
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, l.hooks.Door.Interrupt)()
	}
	crowd := false
	for over := false; ; {
		l.ear.Store(earSlots + int64(slot))
		if c.state.Load() != sleeping || over || ctx.Err() != nil {
			break
		}
		var bells int
		bells, over = l.hooks.Door.Hear()
		l.ear.Store(earAwake)
		if bells > 0 {
			l.heard.Add(1)
			l.counters.bellsReceived.Add(uint64(bells))
			crowd = l.Bell() > 1
		}
	}
	woken = c.state.Load() != sleeping
	l.leaveEar()
	if crowd {
		l.callAttendant()
	}
	if woken {
		<-c.wake // sent, or about to be
	}
	return woken
}

// leaveEar lets go of the ear, see above.
func (l *Lane) leaveEar() {
	l.ear.Store(earFree)
	if l.waiters.Load() > 0 {
		l.callAttendant()
	}
}

// wakeListener interrupts the owner of slot, to whom a token was sent, if it waits at the socket.
func (l *Lane) wakeListener(slot uint32) {
	if l.ear.Load() == earSlots+int64(slot) {
		l.hooks.Door.Interrupt()
	}
}

func (l *Lane) callAttendant() {
	select {
	case l.attention <- struct{}{}:
	default: // it was called already
	}
}

// Attend is the attendant. It returns when the session is over, and keeps the ear.
func (l *Lane) Attend() {
	timer := time.NewTimer(lull)
	defer timer.Stop()
	for heard := uint64(0); ; {
		select {
		case <-l.attention:
		case <-timer.C:
			if now := l.heard.Load(); now != heard {
				heard = now
				timer.Reset(lull)
				continue
			}
		}
		if l.ear.CompareAndSwap(earFree, earAwake) && l.attend() {
			return
		}
		timer.Reset(lull)
	}
}

// attend reads the doorbell until there is one caller at most. It has the ear, and leaves it unless the session is over.
func (l *Lane) attend() (over bool) {
	for alone := 0; alone < aloneFor; {
		bells, over := l.hooks.Door.Hear()
		if bells > 0 {
			l.counters.bellsReceived.Add(uint64(bells))
			if alone++; l.Bell() > 1 || l.waiters.Load() > 0 {
				alone = 0
			}
		}
		if over {
			return true
		}
	}
	l.leaveEar()
	return false
}
