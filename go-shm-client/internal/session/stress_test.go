package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// How much each combination is stressed: by calls that are answered, prompts that are made, calls of one caller.
const (
	stressCalls   = 1500
	stressPrompts = 300
	loneCalls     = 3000
)

// until waits until done says true.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done() && !t.Failed(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("waited in vain until %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// answerWithRow answers with the checksum of the pixels, and with an output that repeats their first 64 bytes.
func answerWithRow(s *fakeserver.Server, got layout.Submission) {
	pixels := s.Input(0, got.Slot)
	copy(s.Output(0, got.Slot), pixels[:64])
	s.Answer(got, layout.Completion{Checksum: fakeserver.Checksum(pixels), Batch: 1})
}

type tally struct{ answered, abandoned, full, failed atomic.Int64 }

// caller claims, fills, calls, checks and releases until stop, and gives a tenth of its calls up in flight.
func caller(h *heapLane, seed uint64, stop <-chan struct{}, count *tally) error {
	random := rand.New(rand.NewPCG(seed, 1))
	want := make([]byte, imageBytes)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		var slot uint32
		var err error
		if random.IntN(4) == 0 {
			slot, err = h.TryClaim(1)
		} else {
			slot, err = h.Claim(context.Background(), 1)
		}
		switch {
		case err == fault.RingFull:
			count.full.Add(1)
			continue
		case errors.Is(err, errEnded):
			return nil
		case err != nil:
			return err
		}
		fill(want, random.Uint64())
		copy(h.Input(0, slot, 1), want)
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if random.IntN(10) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(random.Int64N(int64(100*time.Microsecond))))
		}
		result, owned, err := h.do(ctx, slot, layout.Submission{Op: layout.OpEcho})
		cancel()
		switch {
		case !owned && errors.Is(err, fault.DeadlineExceeded):
			count.abandoned.Add(1)
			continue
		case !owned:
			return fmt.Errorf("slot %d lost to %w", slot, err)
		case err == nil && (!bytes.Equal(h.Input(0, slot, 1), want) || result.Checksum != fakeserver.Checksum(want)):
			return fmt.Errorf("slot %d was overwritten, or read before it was written", slot)
		case err == nil && !bytes.Equal(h.Output(0, slot, 1), want[:64]):
			return fmt.Errorf("slot %d has another's output: %x", slot, binary.LittleEndian.Uint64(h.Output(0, slot, 1)))
		case err == nil:
			count.answered.Add(1)
		case errors.Is(err, errEnded):
			count.failed.Add(1)
		case !errors.Is(err, fault.DeadlineExceeded):
			return err
		}
		h.Release(slot)
	}
}

func TestHundredsOfGoroutinesLoseNothingOnFewSlots(t *testing.T) {
	seed := seeded(t)
	for _, slots := range []uint32{4, 8, 64} {
		for _, spin := range []time.Duration{0, 20 * time.Microsecond, SpinForever} {
			for name, behaviour := range map[string]fakeserver.Behaviour{
				"at once":  {},
				"shuffled": {Hold: int(slots) / 2, Polls: 50},
				"slow":     {Hold: int(slots), Polls: 5, Delay: 200 * time.Microsecond},
			} {
				t.Run(fmt.Sprintf("%d slots, spin %v, server answers %s", slots, spin, name), func(t *testing.T) {
					behaviour.Random = rand.New(rand.NewPCG(seed, uint64(slots)))
					behaviour.Answer = answerWithRow
					h := newHeapLane(t, slots, spin)
					h.run(behaviour)
					count := stress(t, h, seed, 200, false)
					h.mustBeWhole(t)
					h.stopServer()
					if taken := h.server.Taken.Load(); taken != count.answered.Load()+count.abandoned.Load() || h.server.Answered.Load() != taken {
						t.Errorf("the server took %d and answered %d; %d calls were answered and %d abandoned",
							taken, h.server.Answered.Load(), count.answered.Load(), count.abandoned.Load())
					}
					if count.answered.Load() == 0 || h.counters.Snapshot().Requests != uint64(h.server.Taken.Load()) {
						t.Errorf("%d answered; %+v", count.answered.Load(), h.counters.Snapshot())
					}
				})
			}
		}
	}
}

// With hundreds of callers a lost wake-up is made good by the next call's. Alone, it is a call that never returns.
func TestALoneSleeperIsAlwaysWoken(t *testing.T) {
	seed := seeded(t)
	for _, spin := range []time.Duration{0, 2 * time.Microsecond} {
		for _, callers := range []int{1, 2} {
			h := newHeapLane(t, 2, spin)
			h.run(fakeserver.Behaviour{Random: rand.New(rand.NewPCG(seed, 1)), Polls: 1000, Answer: func(s *fakeserver.Server, got layout.Submission) {
				s.Answer(got, layout.Completion{})
			}})
			var all sync.WaitGroup
			for range callers {
				all.Add(1)
				go func() {
					defer all.Done()
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					for calls := range loneCalls {
						slot, err := h.Claim(ctx, 1)
						if err != nil {
							t.Error(err)
							return
						}
						if _, _, err := h.do(ctx, slot, layout.Submission{Op: layout.OpEcho}); err != nil {
							t.Errorf("call %d: %v", calls, err)
							return
						}
						h.Release(slot)
					}
				}()
			}
			all.Wait()
			h.mustBeWhole(t)
		}
	}
}

func TestAServerThatDiesUnderLoadFailsEachCallOnce(t *testing.T) {
	seed := seeded(t)
	for _, spin := range []time.Duration{0, 20 * time.Microsecond, SpinForever} {
		for i := range 10 {
			h := newHeapLane(t, 8, spin)
			h.run(fakeserver.Behaviour{
				Random: rand.New(rand.NewPCG(seed, uint64(i))),
				Hold:   4, Polls: 10, Delay: 50 * time.Microsecond,
				Answer: answerWithRow,
			})
			stress(t, h, seed+uint64(i), 50, true)
			<-h.ended
			if h.unmapped.Load() != 1 {
				t.Fatalf("spin %v, round %d: unmapped %d times, %d of %d slots returned",
					spin, i, h.unmapped.Load(), h.free.gone, len(h.calls))
			}
			if n := h.waiters.Load(); n != 0 {
				t.Errorf("%d waiters left over", n)
			}
		}
	}
}

// stress lets callers call for a while; with kill the server dies instead of them stopping.
func stress(t *testing.T, h *heapLane, seed uint64, callers int, kill bool) *tally {
	t.Helper()
	stop := make(chan struct{})
	count := new(tally)
	var all sync.WaitGroup
	for i := range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := caller(h, seed+uint64(i), stop, count); err != nil {
				t.Error(err)
			}
		}()
	}
	enough := int64(stressCalls)
	if kill {
		enough = int64(seed % (stressCalls / 4))
	}
	until(t, "calls are answered", func() bool { return count.answered.Load() >= enough })
	if kill {
		h.kill()
	} else {
		close(stop)
	}
	all.Wait()
	return count
}
