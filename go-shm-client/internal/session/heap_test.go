package session

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

var errEnded = errors.New("ended by the test")

// heapLane is a lane on heap memory, where the race detector sees every access, and what surrounds it: a goroutine at
// the doorbell, and the server's side, which the test moves by hand or lets run.
type heapLane struct {
	*Lane
	server      *fakeserver.Server
	counters    *Counters
	serverBells chan struct{} // the server's socket: one bell is as good as many
	clientBells chan struct{}
	end         chan error
	hungUp      chan struct{} // closed: Wait is over
	interrupts  chan struct{}
	hangUp      sync.Once
	ended       chan struct{} // the background reader has returned, and End
	unmapped    atomic.Int32
	stopServer  func()
}

func newHeapLane(t testing.TB, slots uint32, spin time.Duration) *heapLane {
	t.Helper()
	return newLaneOn(t, fakeserver.Images(slots), spin)
}

func newHeapPrompts(t testing.TB, slots uint32, spin time.Duration) *heapLane {
	t.Helper()
	return newLaneOn(t, fakeserver.Prompts(slots), spin)
}

func newLaneOn(t testing.TB, planned segment.Geometry, spin time.Duration) *heapLane {
	t.Helper()
	memory := fakeserver.Heap(planned)
	geometry, err := segment.Check(memory, uint64(len(memory)), fakeserver.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	h := &heapLane{
		counters:    new(Counters),
		serverBells: make(chan struct{}, 1),
		clientBells: make(chan struct{}, 1),
		end:         make(chan error, 1),
		hungUp:      make(chan struct{}),
		interrupts:  make(chan struct{}, 1),
		ended:       make(chan struct{}),
		stopServer:  func() {},
	}
	h.server = fakeserver.New(memory, planned, func() { signal(h.clientBells) })
	h.Lane, err = NewLane(memory, geometry, spin, Hooks{
		Door:   h,
		Broken: h.fail,
		Unmap: func() {
			// Whoever still touches the memory now is caught by the race detector, and reads nonsense without it.
			for i := range memory {
				memory[i] = 0xdb
			}
			h.unmapped.Add(1)
		},
	}, h.counters)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(h.ended)
		h.ReadInBackground()
		h.End(<-h.end)
	}()
	t.Cleanup(func() {
		h.kill()
		<-h.ended
	})
	return h
}

func signal(bells chan struct{}) {
	select {
	case bells <- struct{}{}:
	default:
	}
}

// fail ends the lane as a session would.
func (h *heapLane) fail(cause error) {
	h.beginEnd()
	select {
	case h.end <- cause:
	default:
	}
	h.hangUp.Do(func() { close(h.hungUp) })
	h.callReader()
}

// Ring, Wait and Interrupt make h the lane's Door.
func (h *heapLane) Ring() { signal(h.serverBells) }

func (h *heapLane) Wait() (bells int, over bool) {
	select {
	case <-h.clientBells:
		return 1, false
	case <-h.interrupts:
		return 0, false
	case <-h.hungUp:
		return 0, true
	}
}

func (h *heapLane) Interrupt() { signal(h.interrupts) }

// run lets the server run until the test ends or kill is called.
func (h *heapLane) run(b fakeserver.Behaviour) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		h.server.Run(b, h.serverBells, stop)
	}()
	h.stopServer = sync.OnceFunc(func() { close(stop); <-stopped })
}

// kill is the server's death.
func (h *heapLane) kill() {
	h.stopServer()
	h.fail(errEnded)
}

// take waits for the next submission where the test is the server.
func (h *heapLane) take(t testing.TB) layout.Submission {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Microsecond) {
		if got, ok := h.server.Take(); ok {
			return got
		}
	}
	t.Fatal("no submission came")
	return layout.Submission{}
}

// outcome is what Do returned.
type outcome struct {
	result layout.Completion
	owned  bool
	err    error
}

// do is Do of one slot. owned: it is still ours.
func (h *heapLane) do(ctx context.Context, slot uint32, s layout.Submission) (result layout.Completion, owned bool, err error) {
	if err := h.Do(ctx, slot, []layout.Submission{s}); err != nil {
		return layout.Completion{}, !errors.Is(err, fault.Quarantined), err
	}
	result, err = h.Result(slot)
	return result, true, err
}

func (h *heapLane) call(ctx context.Context, slot uint32) <-chan outcome {
	returned := make(chan outcome, 1)
	go func() {
		result, owned, err := h.do(ctx, slot, layout.Submission{Op: layout.OpEcho})
		returned <- outcome{result, owned, err}
	}()
	return returned
}

func (h *heapLane) mustClaim(t testing.TB) uint32 {
	t.Helper()
	slot, err := h.TryClaim(1)
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

// mustBeWhole checks that the lane is as it was made: every slot is free, once, and nobody counts as waiting.
func (h *heapLane) mustBeWhole(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); h.free.free() < len(h.calls) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Microsecond) // quarantined slots come back by themselves
	}
	seen := make([]bool, len(h.calls))
	for range h.calls {
		slot := h.mustClaim(t)
		if seen[slot] {
			t.Errorf("slot %d is free twice", slot)
		}
		seen[slot] = true
	}
	if slot, err := h.TryClaim(1); err == nil {
		t.Errorf("slot %d is free once too often", slot)
	}
	for slot := range h.calls {
		c := &h.calls[slot]
		if c.state.Load() != idle || len(c.wake) != 0 {
			t.Errorf("slot %d: state %d with %d tokens left over", slot, c.state.Load(), len(c.wake))
		}
		h.Release(uint32(slot))
	}
	if n := h.waiters.Load(); n != 0 {
		t.Errorf("%d waiters left over", n)
	}
}

// imageBytes is the row of the default model's input.
const imageBytes = 3 * 32 * 32

// fill writes bytes that only seed makes.
func fill(pixels []byte, seed uint64) {
	source := rand.NewPCG(seed, ^seed)
	for at := 0; at < len(pixels); at += 8 {
		binary.LittleEndian.PutUint64(pixels[at:], source.Uint64())
	}
}

func seeded(t testing.TB) uint64 {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return seed
}
