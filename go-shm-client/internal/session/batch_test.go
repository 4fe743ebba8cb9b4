package session

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

func echoes(n int) []layout.Submission {
	all := make([]layout.Submission, n)
	for i := range all {
		all[i].Op = layout.OpEcho
	}
	return all
}

// batch does n echoes at once, in the background.
func (h *heapLane) batch(ctx context.Context, first uint32, n int) <-chan error {
	returned := make(chan error, 1)
	go func() { returned <- h.Do(ctx, first, echoes(n)) }()
	return returned
}

// takeSpinning is take of a server that is looking when the submission comes.
func (h *heapLane) takeSpinning() layout.Submission {
	for {
		if got, ok := h.server.Take(); ok {
			return got
		}
	}
}

func TestAServerSeesAllOfABatchOrNothingOfIt(t *testing.T) {
	for name, spin := range spins() {
		h := newHeapLane(t, 8, spin)
		for round := range 200 {
			n := 1 + round%8
			first, err := h.Claim(background(t), n)
			if err != nil {
				t.Fatal(err)
			}
			returned := h.batch(background(t), first, n)
			got := []layout.Submission{h.takeSpinning()}
			for len(got) < n {
				next, ok := h.server.Take()
				if !ok {
					t.Fatalf("%s: %d of %d were there", name, len(got), n)
				}
				got = append(got, next)
			}
			for i := range got { // the answers come in another order
				each := got[(i+round)%n]
				h.server.Answer(each, layout.Completion{Checksum: uint64(each.Slot) + 100})
			}
			if err := <-returned; err != nil {
				t.Fatal(err)
			}
			for i := range uint32(n) {
				result, err := h.Result(first + i)
				if got[i].Slot != first+i || got[i].RequestID != got[0].RequestID+uint64(i) || err != nil || result.Checksum != uint64(first+i)+100 {
					t.Fatalf("%s: row %d: %+v, %+v, %v", name, i, got[i], result, err)
				}
			}
			h.release(first, n)
		}
		h.mustBeWhole(t)
	}
}

func TestABatchWhoseContextEndsIsQuarantinedAndComesBackWhole(t *testing.T) {
	for name, spin := range spins() {
		for answered := range 4 {
			h := newHeapLane(t, 4, spin)
			first, err := h.Claim(background(t), 4)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			returned := h.batch(ctx, first, 4)
			var got []layout.Submission
			for range 4 {
				got = append(got, h.take(t))
			}
			for _, each := range got[4-answered:] { // the last ones
				h.server.Answer(each, layout.Completion{})
			}
			cancel()
			if err := <-returned; !errors.Is(err, fault.Quarantined) || !errors.Is(err, context.Canceled) || errors.Is(err, fault.NotRun) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := h.TryClaim(answered + 1); err != fault.RingFull {
				t.Errorf("%s: what is in flight was claimed: %v", name, err)
			}
			for _, each := range got[:4-answered] {
				h.server.Answer(each, layout.Completion{})
			}
			h.mustBeWhole(t)
		}
	}
}

func TestABatchOfALaneThatEndsKnowsWhatWasAnswered(t *testing.T) {
	for name, spin := range spins() {
		h := newHeapLane(t, 4, spin)
		first, err := h.Claim(background(t), 3)
		if err != nil {
			t.Fatal(err)
		}
		returned := h.batch(background(t), first, 3)
		got := []layout.Submission{h.take(t), h.take(t), h.take(t)}
		h.server.Answer(got[1], layout.Completion{Checksum: 5})
		h.kill()
		if err := <-returned; err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range uint32(3) {
			result, err := h.Result(first + i)
			if (i == 1) != (err == nil) || i == 1 && result.Checksum != 5 || i != 1 && err != errEnded {
				t.Errorf("%s: row %d: %+v, %v", name, i, result, err)
			}
		}
		if err := h.Do(background(t), first, echoes(3)); !errors.Is(err, errEnded) || !errors.Is(err, fault.NotRun) {
			t.Errorf("%s: afterwards: %v", name, err)
		}
		h.release(first, 3)
		<-h.ended
		if n := h.unmapped.Load(); n != 1 {
			t.Errorf("%s: unmapped %d times", name, n)
		}
	}
}

func TestABatchIsNoLargerThanItsLane(t *testing.T) {
	h := newHeapLane(t, 4, 0)
	for _, n := range []int{-1, 0, 5} {
		_, try := h.TryClaim(n)
		_, wait := h.Claim(background(t), n)
		for _, err := range []error{try, wait} {
			if !errors.Is(err, fault.Tensor) || !errors.Is(err, fault.NotRun) || err.Error() != fmt.Sprintf(
				"a batch of %d, expected 1 to 4: that is how many slots the session has", n) {
				t.Error(err)
			}
		}
	}
	h.mustBeWhole(t)
}
