package session

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// background is enough for a call that must not wait for long.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestACallBringsItsCompletionBack(t *testing.T) {
	for name, spin := range map[string]time.Duration{"parked": 0, "spinning": time.Second, "forever": SpinForever} {
		h := newHeapLane(t, 4, spin)
		slot := h.mustClaim(t)
		fill(h.Input(0, slot, 1), 1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		before := machine.Now()
		returned := h.call(ctx, slot)
		got := h.take(t)
		deadline, _ := ctx.Deadline()
		if got.Slot != slot || got.Op != layout.OpEcho || got.Extent != 0 || got.RequestID != 0 {
			t.Errorf("%s: submitted %+v", name, got)
		}
		if off := int64(got.Deadline) - machine.At(deadline); off < -1e6 || off > 1e6 {
			t.Errorf("%s: deadline is off by %d ns", name, off)
		}
		if int64(got.Submitted) < before || int64(got.Submitted) > machine.Now() {
			t.Errorf("%s: submitted at %d", name, got.Submitted)
		}
		h.server.Echo(got)
		o := <-returned
		if o.err != nil || !o.owned || o.result.Checksum != fakeserver.Checksum(h.Input(0, slot, 1)) {
			t.Errorf("%s: %+v", name, o)
		}
		h.Release(slot)
		cancel()
		h.mustBeWhole(t)
	}
}

func TestASlotEndsWhereTheNextOneBegins(t *testing.T) {
	h := newHeapLane(t, 4, 0)
	for slot := range uint32(4) {
		if b := h.Input(0, slot, 1); len(b) != imageBytes || cap(b) != imageBytes {
			t.Errorf("slot %d: len %d, cap %d", slot, len(b), cap(b))
		}
		if b := h.Output(0, slot, 1); len(b) != 64 || cap(b) != 64 {
			t.Errorf("output of slot %d: len %d, cap %d", slot, len(b), cap(b))
		}
		if b := h.Message(slot); len(b) != layout.MessageBytes || cap(b) != layout.MessageBytes {
			t.Errorf("message of slot %d: len %d, cap %d", slot, len(b), cap(b))
		}
	}
}

func TestFreeSlotsAreClaimedInTurn(t *testing.T) {
	h := newHeapLane(t, 4, 0)
	for i := range uint32(12) {
		slot := h.mustClaim(t)
		if slot != i%4 {
			t.Errorf("claim %d gave slot %d", i, slot)
		}
		h.Release(slot)
	}
}

func TestAFullRingIsWaitedForOrReported(t *testing.T) {
	h := newHeapLane(t, 2, 0)
	h.mustClaim(t)
	second := h.mustClaim(t)
	if _, err := h.TryClaim(1); err != fault.RingFull {
		t.Errorf("TryClaim: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := h.Claim(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.DeadlineExceeded) {
		t.Errorf("Claim until a deadline: %v", err)
	}
	claimed := make(chan uint32)
	go func() {
		slot, err := h.Claim(background(t), 1)
		if err != nil {
			t.Error(err)
		}
		claimed <- slot
	}()
	if _, err := h.TryClaim(1); err != fault.RingFull {
		t.Errorf("TryClaim beside a Claim that waits: %v", err)
	}
	h.Release(second)
	if slot := <-claimed; slot != second {
		t.Errorf("claimed slot %d, released was %d", slot, second)
	}
}

func TestACancelledCallQuarantinesItsSlotUntilTheServerIsDone(t *testing.T) {
	for name, spin := range map[string]time.Duration{"parked": 0, "spinning": time.Second, "forever": SpinForever} {
		h := newHeapLane(t, 2, spin)
		slot := h.mustClaim(t)
		cause := errors.New("the user left")
		ctx, cancel := context.WithCancelCause(context.Background())
		returned := h.call(ctx, slot)
		got := h.take(t)
		cancel(cause)
		o := <-returned
		if o.owned || !errors.Is(o.err, context.Canceled) || !errors.Is(o.err, cause) {
			t.Errorf("%s: %+v", name, o)
		}
		other := h.mustClaim(t)
		if _, err := h.TryClaim(1); err != fault.RingFull {
			t.Errorf("%s: the quarantined slot was claimed: %v", name, err)
		}
		h.server.Echo(got) // rings, since the abandoned call counts as a waiter
		h.Release(other)
		h.mustBeWhole(t)
	}
}

func TestADoneContextSubmitsNothing(t *testing.T) {
	h := newHeapLane(t, 1, 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	slot := h.mustClaim(t)
	_, owned, err := h.do(ctx, slot, layout.Submission{Op: layout.OpEcho})
	if !owned || !errors.Is(err, context.Canceled) {
		t.Errorf("owned %v, %v", owned, err)
	}
	if _, some := h.server.Take(); some {
		t.Error("submitted all the same")
	}
}

func TestADrainingServerGetsNoNewClaims(t *testing.T) {
	h := newHeapLane(t, 2, 0)
	slot := h.mustClaim(t)
	returned := h.call(background(t), slot)
	got := h.take(t)
	h.server.Drain()
	if _, err := h.TryClaim(1); !errors.Is(err, fault.Draining) {
		t.Errorf("TryClaim: %v", err)
	}
	if _, err := h.Claim(context.Background(), 1); !errors.Is(err, fault.Draining) {
		t.Errorf("Claim: %v", err)
	}
	h.server.Echo(got)
	if o := <-returned; o.err != nil {
		t.Errorf("the call in flight: %v", o.err)
	}
}

func TestTheEndDeliversWhatWasAnsweredAndFailsTheRest(t *testing.T) {
	for name, spin := range map[string]time.Duration{"parked": 0, "spinning": time.Second, "forever": SpinForever} {
		h := newHeapLane(t, 5, spin)
		var returned []<-chan outcome
		for range 3 {
			returned = append(returned, h.call(background(t), h.mustClaim(t)))
		}
		ctx, cancel := context.WithCancel(context.Background())
		gone := h.call(ctx, h.mustClaim(t))
		lease := h.mustClaim(t)
		waiting := make(chan error)
		go func() {
			_, err := h.Claim(context.Background(), 1)
			waiting <- err
		}()
		byslot := make(map[uint32]layout.Submission)
		for range 4 {
			got := h.take(t)
			byslot[got.Slot] = got
		}
		cancel()
		if o := <-gone; o.owned {
			t.Errorf("%s: %+v", name, o)
		}
		h.stopServer()
		h.server.Echo(byslot[1])
		h.fail(errEnded)
		<-h.ended
		for slot, r := range returned {
			o := <-r
			if !o.owned || (slot == 1) != (o.err == nil) || slot != 1 && o.err != errEnded {
				t.Errorf("%s: slot %d: %+v", name, slot, o)
			}
		}
		if err := <-waiting; err != errEnded {
			t.Errorf("%s: Claim: %v", name, err)
		}
		if _, err := h.TryClaim(1); err != errEnded {
			t.Errorf("%s: TryClaim: %v", name, err)
		}
		for slot := range uint32(3) {
			h.Release(slot)
		}
		if h.unmapped.Load() != 0 {
			t.Fatalf("%s: unmapped under a lease", name)
		}
		fill(h.Input(0, lease, 1), 7)
		if _, owned, err := h.do(background(t), lease, layout.Submission{Op: layout.OpEcho}); !owned || !errors.Is(err, errEnded) || !errors.Is(err, fault.NotRun) {
			t.Errorf("%s: a call after the end: owned %v, %v", name, owned, err)
		}
		h.Release(lease)
		if n := h.unmapped.Load(); n != 1 {
			t.Errorf("%s: unmapped %d times", name, n)
		}
		if _, err := h.Claim(context.Background(), 1); err != errEnded {
			t.Errorf("%s: a claim after all: %v", name, err)
		}
	}
}

func TestHostileCompletionsEndTheLane(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   string
		answer func(h *heapLane, got layout.Submission)
	}{
		{"a slot that there is not", "slot", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: 4, RequestID: got.RequestID})
		}},
		{"slot 2^32-1", "slot", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: 1<<32 - 1, RequestID: got.RequestID})
		}},
		{"a slot that is free", "slot", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot + 1, RequestID: got.RequestID})
		}},
		{"the request before", "request_id", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID - 1})
		}},
		{"a status that there is not", "status", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID, Status: 4})
		}},
		{"an extent where nothing is symbolic", "extent", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID, Extent: 1})
		}},
		{"a message longer than its room", "message", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID, MessageBytes: layout.MessageBytes + 1})
		}},
		{"a message of 4 GiB", "message", func(h *heapLane, got layout.Submission) {
			h.server.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID, MessageBytes: 1<<32 - 1})
		}},
		{"a turn neither old nor new", "turn", func(h *heapLane, got layout.Submission) {
			h.server.PublishTurn(99)
		}},
	} {
		for mode, spin := range map[string]time.Duration{"parked": 0, "spinning": time.Second, "forever": SpinForever} {
			h := newHeapLane(t, 4, spin)
			returned := h.call(background(t), h.mustClaim(t))
			c.answer(h, h.take(t))
			<-h.ended
			o := <-returned
			var violation *fault.Violation
			if !o.owned || !errors.As(o.err, &violation) || violation.Rule != c.rule {
				t.Errorf("%s, %s: %+v, want %q", c.name, mode, o, c.rule)
			}
		}
	}
}

func TestAnExtentBeyondTheBoundEndsTheLane(t *testing.T) {
	tokens := doorbell.Tensor{Name: "tokens", Datatype: "INT32", Shape: []int{-1}}
	states := doorbell.Tensor{Name: "states", Datatype: "FP32", Shape: []int{-1, 4}}
	encoder := fakeserver.Model{Signature: doorbell.Signature{Inputs: []doorbell.Tensor{tokens}, Outputs: []doorbell.Tensor{states}}, Bound: 8}
	h := newLaneOn(t, fakeserver.Plan(encoder, 2), 0)
	for _, extent := range []uint32{8, 9} {
		slot := h.mustClaim(t)
		returned := make(chan error, 1)
		go func() {
			_, _, err := h.do(background(t), slot, layout.Submission{Op: layout.OpRun, Extent: 8})
			returned <- err
		}()
		got := h.take(t)
		if got.Extent != 8 {
			t.Errorf("submitted %+v", got)
		}
		h.server.Answer(got, layout.Completion{Extent: extent})
		var violation *fault.Violation
		if err := <-returned; (err == nil) != (extent == 8) || err != nil && (!errors.As(err, &violation) || violation.Rule != "extent") {
			t.Errorf("an extent of %d: %v", extent, err)
		}
	}
}

func TestACompletionThatComesTwiceEndsTheLaneButKeepsItsResult(t *testing.T) {
	h := newHeapLane(t, 4, 0)
	slot := h.mustClaim(t)
	returned := h.call(background(t), slot)
	other := h.call(background(t), h.mustClaim(t))
	got, _ := h.take(t), h.take(t)
	if got.Slot != slot {
		slot, returned, other = got.Slot, other, returned
	}
	h.server.Answer(got, layout.Completion{Checksum: 5})
	if o := <-returned; o.err != nil || o.result.Checksum != 5 {
		t.Errorf("%+v", o)
	}
	h.server.Publish(layout.Completion{Slot: slot, RequestID: got.RequestID, Checksum: 6})
	if o := <-other; !errors.Is(o.err, fault.Protocol) || !o.owned {
		t.Errorf("the other call: %+v", o)
	}
}

func TestSpinningStopsWhereItDoesNotPayAndIsTriedAgain(t *testing.T) {
	full := int64(time.Hour) // so that a slow machine takes no fast call for a slow one
	s := spinner{full: full}
	fast := func() { s.slept(machine.Now()) }
	slow := func() { s.slept(machine.Now() - int64(2*time.Hour)) }
	callsUntilSpinning := func() (calls int) {
		for ; s.budget() == 0; calls++ {
			fast()
		}
		return calls
	}
	for i, want := range []int{1, 16, 256, 1024, 1024} { // one miss after another
		s.missed()
		if s.budget() != 0 {
			t.Fatal("spins on after a miss")
		}
		for range 10 {
			slow() // nothing that spinning could catch
		}
		if got := callsUntilSpinning(); got != want {
			t.Errorf("miss %d: %d calls without spinning, want %d", i+1, got, want)
		}
	}
	for range 11 {
		s.hit()
	}
	s.missed()
	if got := callsUntilSpinning(); got != 1 || s.budget() != full {
		t.Errorf("a miss after many hits: %d calls without spinning", got)
	}
}

// With a context that can end, a call that sleeps allocates what context.AfterFunc does.
func TestTheHotPathAllocatesNothing(t *testing.T) {
	for name, spin := range map[string]time.Duration{"parked": 0, "spinning": 100 * time.Microsecond} {
		h := newHeapLane(t, 4, spin)
		h.run(fakeserver.Behaviour{Answer: func(s *fakeserver.Server, got layout.Submission) { s.Answer(got, layout.Completion{}) }})
		ctx := context.Background()
		if n := testing.AllocsPerRun(200, func() {
			slot, err := h.Claim(ctx, 1)
			if err != nil {
				t.Fatal(err)
			}
			_, owned, err := h.do(ctx, slot, layout.Submission{Op: layout.OpEcho})
			if err != nil || !owned {
				t.Fatal(owned, err)
			}
			h.Release(slot)
		}); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}

func TestErrClosedIsTheStandardOne(t *testing.T) {
	if fault.Closed != os.ErrClosed {
		t.Error("it is not")
	}
}
