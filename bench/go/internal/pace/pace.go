// Package pace says when calls are due that come at a fixed rate, and wakes up for them.
//
//	schedule := pace.Schedule{Rate: 5000, Lasting: time.Second}
//	schedule.Run(start, func(at, late time.Duration) { due <- at })
package pace

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// Schedule is Rate calls a second, evenly spaced, for as long as Lasting.
type Schedule struct {
	Rate    float64
	Lasting time.Duration
}

// Calls is how many there are.
func (s Schedule) Calls() int { return max(1, int(s.Rate*s.Lasting.Seconds())) }

// At is when call i is due, counted from the start.
func (s Schedule) At(i int) time.Duration {
	return time.Duration(float64(i) / s.Rate * float64(time.Second))
}

// Run calls send for each call, not before it is due, and as many at once as are overdue. late is how long ago it was due.
//
// It sleeps in the kernel: a Go timer of an idle process is up to a millisecond late. Before it sleeps, it lets those run
// to whom it has sent, on the same thread: waking another one would cost more than the call.
func (s Schedule) Run(start time.Time, send func(at, late time.Duration)) {
	for i := range s.Calls() {
		at := s.At(i)
		for yielded := false; ; yielded = !yielded {
			now := time.Since(start)
			if now >= at {
				send(at, now-at)
				break
			}
			if yielded {
				sleep(at - now)
			} else {
				runtime.Gosched()
			}
		}
	}
}

func sleep(d time.Duration) {
	const setTimerSlack = 29 // PR_SET_TIMERSLACK of this thread; the default of 50 us would be added to the sleep
	syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
	t := syscall.NsecToTimespec(int64(d))
	// A signal ends it early, and the caller looks at the clock again.
	_, _, _ = syscall.Syscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
