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

	// spinFloor is the budget below which adapting gives up: it would buy less than its own clock reads cost.
	spinFloor = int64(2 * time.Microsecond)
)

// spinner is how long calls poll before they sleep. When polling does not pay, the budget halves down to nothing; when
// a call was answered within the full budget, polling or not, the full budget is back.
type spinner struct {
	full      int64
	effective atomic.Int64
}

func (s *spinner) start(budget time.Duration) {
	if runtime.NumCPU() == 1 || runtime.GOMAXPROCS(0) == 1 {
		budget = 0 // a spinner would only keep the one that it waits for off the processor
	}
	s.full = int64(max(0, budget))
	s.effective.Store(s.full)
}

// budget is 0 when not to spin at all.
func (s *spinner) budget() int64 { return s.effective.Load() }

// missed says that a whole budget was spun away.
func (s *spinner) missed() {
	half := s.effective.Load() / 2
	if half < spinFloor {
		half = 0
	}
	s.effective.Store(half)
}

// answered says that a call which began at time began is done.
func (s *spinner) answered(began int64) {
	if s.effective.Load() != s.full && machine.Now()-began < s.full {
		s.effective.Store(s.full)
	}
}

// spin polls until the slot's call is done (true), or it is time to sleep. The caller holds the role.
func (l *Lane) spin(ctx context.Context, slot uint32, began, budget int64) bool {
	c := &l.calls[slot]
	limit := int64(math.MaxInt64)
	if budget < limit-began {
		limit = began + budget
	}
	gone := ctx.Done()
	for polls := 1; ; polls++ {
		if !l.completions.Empty() {
			l.reap()
			if c.state.Load() == done {
				l.counters.spinHits.Add(1)
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
