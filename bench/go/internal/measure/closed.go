// Package measure calls a transport, takes the time of every call, and checks every answer.
//
//	run := measure.Run{Transport: t, Op: measure.Echo, Table: table, Callers: 4}
//	run.Closed(ctx, 1000, 0)                          // warm up
//	result := run.Closed(ctx, 0, 2*time.Second)       // each caller sends when it has its answer
//	result := run.Open(ctx, 5000, 2*time.Second)      // calls are due at a fixed rate, whoever still waits
package measure

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

// Run is what is called, and with what.
type Run struct {
	Transport transport.Transport
	Op        Op
	Table     payload.Table
	Callers   int
	Cores     []int        // of Closed: where the callers' threads run; empty: wherever they like
	Stop      *atomic.Bool // of Closed: true ends it, as its time does; may be nil
}

// Result is what the calls of a run came to.
type Result struct {
	Latency    *hdrhistogram.Histogram // of calls that were answered rightly
	Count      int64
	Errors     int64 // calls that failed, or brought a wrong answer
	FirstError error
	Batches    map[int]int64
	Wall       time.Duration
	Pieces     *hdrhistogram.Histogram // of prompts, see there

	// Of open runs:
	InTime     int64                   // answered before the last call was due
	Unfinished int64                   // given up; they count in Latency with the time that they had waited by then
	Lateness   *hdrhistogram.Histogram // by how much the sender itself missed the moments at which calls were due
}

// Closed has every caller make one call after the other until together they made `calls` of them, or, with calls 0, until
// `lasting` is over.
func (r Run) Closed(ctx context.Context, calls int, lasting time.Duration) Result {
	limit := int64(calls)
	if calls == 0 {
		limit = math.MaxInt64
	} else {
		lasting = math.MaxInt64
	}
	var made atomic.Int64
	share := func() bool { return true }
	if calls != 0 { // no shared counter where none is needed
		share = func() bool { return made.Add(1) <= limit }
	}
	recorders := newRecorders(r.Callers)
	var all sync.WaitGroup
	start := time.Now()
	for caller, mine := range recorders {
		all.Add(1)
		go func() {
			defer all.Done()
			if len(r.Cores) > 0 {
				if err := pin(r.Cores); err != nil {
					mine.add(0, answer{}, err)
					return
				}
			}
			// Callers begin apart from each other, so that neighbours in time are different payloads.
			for i := caller * 7; share(); i++ {
				entry := r.Table.At(i)
				began := time.Since(start)
				answer, err := r.Op.call(ctx, r.Transport, entry)
				ended := time.Since(start)
				if err == nil {
					err = r.Op.check(entry, answer)
				}
				mine.add(ended-began-answer.returned.Filling, answer, err)
				if err != nil || ended >= lasting || r.Stop != nil && r.Stop.Load() {
					return
				}
			}
		}()
	}
	all.Wait()
	return result(recorders, time.Since(start))
}

// pin keeps the goroutine on a thread of its own, and that thread on those cores. The thread ends with the goroutine.
func pin(cores []int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to cores %v: %w", cores, err)
	}
	return nil
}

func result(recorders []*recorder, wall time.Duration) Result {
	all := merge(recorders)
	return Result{
		Latency: all.latency, Count: all.count, Errors: all.errors, FirstError: all.firstError, Batches: all.batches, Wall: wall,
	}
}
