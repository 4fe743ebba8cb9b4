package session

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"go-shm-client/internal/machine"
)

// SpinForever is a budget that never ends: for a process with a core to spare.
const SpinForever = time.Duration(math.MaxInt64)

const (
	// pollsPerLook is how often the ring is polled between two looks at the clock and the context. A poll with its
	// pause takes 10 to 60 ns, a look about 30: looking costs a few percent, and a budget is kept within 2 us.
	pollsPerLook = 32

	// A hit saves a wake-up, some 5 us; a miss costs the whole budget, some 100 us, and keeps a processor from those
	// who could use it. So spinning has to hit far more often than it misses: the penalty grows by 16 with a miss
	// and halves with a hit, and stays low only where four of five hit. Its end is a probe every 1024 calls.
	missFactor = 16
	maxPenalty = 1024
)

// spinner is how long calls poll before they sleep: the whole budget, or not at all. A call that polled in vain keeps
// the next ones from polling: `penalty` of those that were answered within the budget. Slower ones do not count, so that
// nobody polls for a model that takes longer.
//
// That a call slept and was answered within the budget is not yet a reason to poll. Where client and server share a
// processor, a sleeping caller is answered in a few microseconds, and a polling one keeps the server from answering.
type spinner struct {
	full    int64
	penalty atomic.Int64
	skip    atomic.Int64 // calls that do not poll from now on
}

func (s *spinner) start(budget time.Duration) {
	if runtime.NumCPU() == 1 || runtime.GOMAXPROCS(0) == 1 {
		budget = 0 // a spinner would only keep the one that it waits for off the processor
	}
	s.full = int64(max(0, budget))
}

// budget is 0 when not to spin at all.
func (s *spinner) budget() int64 {
	if s.skip.Load() > 0 {
		return 0
	}
	return s.full
}

// missed says that a whole budget was spun away. Callers race for the numbers, and it does not matter who wins.
func (s *spinner) missed() {
	penalty := min(maxPenalty, max(1, missFactor*s.penalty.Load()))
	s.penalty.Store(penalty)
	s.skip.Store(penalty)
}

// hit says that spinning paid.
func (s *spinner) hit() {
	if penalty := s.penalty.Load(); penalty > 0 {
		s.penalty.Store(penalty / 2)
	}
}

// slept says that a call which began at time began is done, and has slept.
func (s *spinner) slept(began int64) {
	if s.skip.Load() > 0 && machine.Now()-began < s.full {
		s.skip.Add(-1)
	}
}

// spin polls until there is news of the slot's call (true), or it is time to sleep. The caller holds the role.
func (l *Lane) spin(ctx context.Context, slot uint32, began, budget int64) bool {
	c := &l.calls[slot]
	if c.news() { // a "more" that was reaped before we had the role; from now on nobody but us reaps
		return true
	}
	limit := int64(math.MaxInt64)
	if budget < limit-began {
		limit = began + budget
	}
	gone := ctx.Done()
	for polls := 1; ; polls++ {
		if !l.completions.Empty() {
			l.reap()
			if c.news() {
				l.counters.spinHits.Add(1)
				l.spinner.hit()
				return true
			}
		}
		machine.Pause()
		if polls%pollsPerLook != 0 {
			continue
		}
		if l.ending.Load() {
			return false
		}
		if gone != nil {
			select {
			case <-gone:
				return false
			default:
			}
		}
		if budget != math.MaxInt64 && machine.Now() > limit {
			l.spinner.missed()
			return false
		}
	}
}
