package measure

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sidecar-bench/internal/pace"
)

// grace is how long calls that were due may still take after the last one was.
const grace = time.Second

// Open has calls due at a fixed rate, and made by whichever caller is free. A latency counts from the moment at which the
// call was due: when all callers wait, the calls behind them wait as well, and that is a part of what they take.
func (r Run) Open(ctx context.Context, rate float64, lasting time.Duration) Result {
	schedule := pace.Schedule{Rate: rate, Lasting: lasting}
	due := make(chan time.Duration, schedule.Calls()) // has room for all: the sender never waits for a caller
	recorders := newRecorders(r.Callers)
	lateness := newHistogram()
	var inTime atomic.Int64
	var stopped atomic.Bool
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	start := time.Now()
	for caller, mine := range recorders {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := caller * 7; ; i++ {
				at, more := <-due
				if !more || stopped.Load() {
					return
				}
				entry := r.Table.At(i)
				answer, err := r.Op.call(ctx, r.Transport, entry)
				ended := time.Since(start)
				if err != nil && stopped.Load() {
					return // given up, see below
				}
				if err == nil {
					err = r.Op.check(entry, answer)
				}
				mine.add(ended-at, answer, err)
				if err == nil && ended <= lasting {
					inTime.Add(1)
				}
			}
		}()
	}
	schedule.Run(start, func(at, late time.Duration) {
		record(lateness, late)
		due <- at
	})
	close(due)

	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(grace):
		stopped.Store(true)
		cancel()
		<-done
	}
	out := result(recorders, time.Since(start))
	out.InTime, out.Lateness = inTime.Load(), lateness
	// Whatever was not answered had waited at least since it was due. Leaving it out would hide the longest waits: the
	// oldest calls that nobody recorded are taken to be the last ones that were due.
	out.Unfinished = int64(schedule.Calls()) - out.Count - out.Errors
	for i := range out.Unfinished {
		record(out.Latency, lasting+grace-schedule.At(schedule.Calls()-1-int(i)))
	}
	return out
}
