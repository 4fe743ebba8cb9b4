//go:build linux

package shm

import (
	"context"
	"math"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// A server in another time namespace reads another CLOCK_MONOTONIC than we do.
func TestTimesAreSentInTheServersClock(t *testing.T) {
	for name, ahead := range map[string]int64{
		"the same clock": 0,
		"a day ahead":    int64(24 * time.Hour),
		"years ahead":    math.MaxInt64 / 4,
		"behind":         -machine.Now() / 2,
	} {
		f := startFake(t, 2)
		f.ClockAhead = ahead
		got := make(chan layout.Submission, 1)
		f.Behaviour = func() fakeserver.Behaviour {
			return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, submission layout.Submission) {
				got <- submission
				s.Echo(submission)
			}}
		}
		before := machine.Now()
		client := dialFake(t, f)
		slack := machine.Now() - before // the handshake is what the clocks are compared by
		if ahead == 0 {
			slack = 0
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		began := machine.Now()
		if _, err := client.Echo(ctx, gray(1)); err != nil {
			t.Fatal(err)
		}
		ended := machine.Now()
		submission := <-got
		deadline, _ := ctx.Deadline()
		if off := int64(submission.Deadline) - (machine.At(deadline) + ahead); max(off, -off) > slack {
			t.Errorf("%s: the deadline is off by %v, the handshake took %v", name, time.Duration(off), time.Duration(slack))
		}
		if at := int64(submission.Submitted) - ahead; at < began-slack || at > ended+slack {
			t.Errorf("%s: submitted %v before the call", name, time.Duration(began-at))
		}
		client.Close()
	}
}

func TestATimeThatNoClockReadsIsTheNearestThatOneDoes(t *testing.T) {
	f := startFake(t, 2)
	got := make(chan layout.Submission, 1)
	f.Behaviour = func() fakeserver.Behaviour {
		return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, submission layout.Submission) {
			got <- submission
			s.Echo(submission)
		}}
	}
	far, cancel := context.WithDeadline(context.Background(), time.Now().AddDate(1000, 0, 0))
	defer cancel()
	for ahead, deadline := range map[int64]uint64{
		math.MaxInt64/2 + math.MaxInt64/4: math.MaxInt64, // there are no later ones
		1 - machine.Now():                 0,             // checked below: after that clock's zero
	} {
		f.ClockAhead = ahead
		client := dialFake(t, f)
		if _, err := client.Echo(far, gray(1)); err != nil {
			t.Fatal(err)
		}
		submission := <-got
		if deadline != 0 && submission.Deadline != deadline {
			t.Errorf("%d ahead: deadline %d", ahead, submission.Deadline)
		}
		if submission.Deadline == 0 || submission.Deadline > math.MaxInt64 || submission.Submitted > math.MaxInt64 {
			t.Errorf("%d ahead: %+v", ahead, submission)
		}
		client.Close()
	}
}
