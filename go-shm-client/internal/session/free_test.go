package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/fault"
)

func mustTake(t *testing.T, f *freeSlots, n int) uint32 {
	t.Helper()
	first, ok := f.take(n)
	if !ok {
		t.Fatalf("no %d neighbours", n)
	}
	return first
}

func mustQueue(t *testing.T, f *freeSlots, n int) *claimant {
	t.Helper()
	first, c := f.queue(n)
	if c == nil {
		t.Fatalf("slots from %d on, without waiting", first)
	}
	return c
}

// given is what a claimant has been given, -1: nothing yet.
func given(c *claimant) int {
	select {
	case first := <-c.first:
		return int(first)
	default:
		return -1
	}
}

func TestNeighboursAreFoundWhereverTheyAreFree(t *testing.T) {
	seed := seeded(t)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, slots := range []int{1, 2, 63, 64, 65, 200} {
		f := newFreeSlots(slots)
		owned := make([]bool, slots)
		var runs [][2]int
		for range 5000 {
			n := 1 + random.IntN(slots)
			if random.IntN(2) == 0 {
				n = 1 + random.IntN(min(slots, 4))
			}
			if len(runs) > 0 && random.IntN(2) == 0 {
				i := random.IntN(len(runs))
				for slot := runs[i][0]; slot < runs[i][0]+runs[i][1]; slot++ {
					owned[slot] = false
					f.put(uint32(slot))
				}
				runs = append(runs[:i], runs[i+1:]...)
				continue
			}
			longest := 0
			for slot, free := 0, 0; slot < slots; slot++ {
				if free++; owned[slot] {
					free = 0
				}
				longest = max(longest, free)
			}
			first, ok := f.take(n)
			if ok != (n <= longest) {
				t.Fatalf("%d of %d slots: found %v, where %d neighbours are free", n, slots, ok, longest)
			}
			if !ok {
				continue
			}
			for slot := int(first); slot < int(first)+n; slot++ {
				if owned[slot] {
					t.Fatalf("slot %d of %d is taken twice", slot, slots)
				}
				owned[slot] = true
			}
			runs = append(runs, [2]int{int(first), n})
		}
	}
}

func TestWhoWantsSeveralGetsWhatComesBackToItsWindowAndOthersTheRest(t *testing.T) {
	f := newFreeSlots(8)
	for range 8 {
		mustTake(t, f, 1)
	}
	f.put(4)
	f.put(6) // most is free in 4 to 6
	several, single := mustQueue(t, f, 3), mustQueue(t, f, 1)
	if _, ok := f.take(1); ok {
		t.Error("a slot of the window was taken by somebody else")
	}
	f.put(1)
	if got := given(single); got != 1 {
		t.Errorf("a slot elsewhere: %d", got)
	}
	f.put(5)
	if got := given(several); got != 4 {
		t.Errorf("the window: %d", got)
	}
	f.put(7)
	if slot := mustTake(t, f, 1); slot != 7 {
		t.Errorf("afterwards: %d", slot)
	}
}

func TestAWindowWithASlotThatSomebodyKeepsIsLeftForABetterOne(t *testing.T) {
	f := newFreeSlots(8)
	for range 8 {
		mustTake(t, f, 1)
	}
	f.put(0)
	f.put(1)
	several := mustQueue(t, f, 3) // 0 to 2, and 2 is kept
	for _, slot := range []uint32{4, 5, 6} {
		if got := given(several); got != -1 {
			t.Fatalf("given %d", got)
		}
		f.put(slot)
	}
	if got := given(several); got != 4 {
		t.Errorf("the better one: %d", got)
	}
	if f.free() != 2 || mustTake(t, f, 2) != 0 {
		t.Errorf("%d are free", f.free())
	}
}

func TestWhoLeavesTheLineLeavesNothingBehind(t *testing.T) {
	f := newFreeSlots(4)
	for range 4 {
		mustTake(t, f, 1)
	}
	f.put(2)
	first, second, single := mustQueue(t, f, 3), mustQueue(t, f, 2), mustQueue(t, f, 1)
	if _, got := f.leave(first); got {
		t.Error("the first was given something")
	}
	if got := given(single); got != 2 { // which was in the window
		t.Errorf("the single one: %d", got)
	}
	f.put(0)
	f.put(1)
	if got := given(second); got != 0 {
		t.Errorf("the next in line: %d", got)
	}
	late := mustQueue(t, f, 2)
	f.put(0)
	f.put(1)
	if at, got := f.leave(late); !got || at != 0 {
		t.Errorf("given while it left: %d, %v", at, got)
	}
	f.put(0)
	f.put(1)
	f.put(2)
	f.put(3)
	if f.free() != 4 || mustTake(t, f, 4) != 0 {
		t.Errorf("%d of 4 are free", f.free())
	}
}

func TestTheLastSlotThatComesBackAfterTheEndIsTheLast(t *testing.T) {
	f := newFreeSlots(5)
	for range 4 {
		mustTake(t, f, 1)
	}
	f.put(1)
	several := mustQueue(t, f, 3) // has slot 1, or a window beside it
	if f.end() {
		t.Error("slots are still owned")
	}
	if _, got := f.leave(several); got {
		t.Error("it was given slots after the end")
	}
	if f.put(0) || f.put(2) || !f.put(3) {
		t.Error("not the last one")
	}
	if _, ok := f.take(1); ok {
		t.Error("a slot was taken after the end")
	}
}

// Callers of one slot and of several share a lane. Nobody has what another one has, everybody is served, and when
// all are done, so is every slot.
func TestManyClaimAnyNumberOfNeighbours(t *testing.T) {
	seed := seeded(t)
	for _, slots := range []uint32{8, 70} {
		h := newHeapLane(t, slots, 0)
		owner := make([]atomic.Int64, slots)
		var all sync.WaitGroup
		for g := range int64(16) {
			all.Add(1)
			go func() {
				defer all.Done()
				random := rand.New(rand.NewPCG(seed, uint64(g)))
				for range 500 {
					n := 1
					if g%2 == 0 {
						n = 1 + random.IntN(int(slots))
					}
					ctx, cancel := context.Background(), context.CancelFunc(func() {})
					if random.IntN(4) == 0 {
						ctx, cancel = context.WithTimeout(ctx, time.Duration(random.Int64N(int64(100*time.Microsecond))))
					}
					first, err := h.Claim(ctx, n)
					cancel()
					if err != nil {
						if !errors.Is(err, fault.DeadlineExceeded) {
							t.Error(err)
						}
						continue
					}
					for slot := first; slot < first+uint32(n); slot++ {
						if other := owner[slot].Swap(g + 1); other != 0 {
							t.Errorf("slot %d is %d's and %d's", slot, other-1, g)
						}
					}
					for slot := first; slot < first+uint32(n); slot++ {
						owner[slot].Store(0)
					}
					h.release(first, n)
				}
			}()
		}
		all.Wait()
		h.mustBeWhole(t)
	}
}
