package pace

import (
	"testing"
	"time"
)

func TestCallsAreEvenlySpaced(t *testing.T) {
	schedule := Schedule{Rate: 400, Lasting: 500 * time.Millisecond}
	if got := schedule.Calls(); got != 200 {
		t.Errorf("%d calls, want 200", got)
	}
	for i := range schedule.Calls() {
		if got, want := schedule.At(i), time.Duration(i)*2500*time.Microsecond; got != want {
			t.Fatalf("call %d is due at %v, want %v", i, got, want)
		}
	}
	if got := (Schedule{Rate: 0.1, Lasting: time.Second}).Calls(); got != 1 {
		t.Errorf("%d calls at a rate of one in ten seconds, want 1", got)
	}
}

func TestNoCallIsSentBeforeItIsDue(t *testing.T) {
	schedule := Schedule{Rate: 1000, Lasting: 50 * time.Millisecond}
	start, sent := time.Now(), 0
	schedule.Run(start, func(at, late time.Duration) {
		if at != schedule.At(sent) {
			t.Errorf("call %d sent as the one of %v, want %v", sent, at, schedule.At(sent))
		}
		if gone := time.Since(start); gone < at || late < 0 || late > gone-at {
			t.Errorf("call of %v sent at %v, %v late", at, gone, late)
		}
		sent++
	})
	if sent != schedule.Calls() {
		t.Errorf("%d calls sent, want %d", sent, schedule.Calls())
	}
}

func TestOverdueCallsAreSentAtOnceAndKeepTheTimeWhenTheyWereDue(t *testing.T) {
	const stall = 30 * time.Millisecond
	schedule := Schedule{Rate: 1000, Lasting: 20 * time.Millisecond}
	var lates []time.Duration
	schedule.Run(time.Now(), func(at, late time.Duration) {
		if len(lates) == 0 {
			time.Sleep(stall) // all others are due meanwhile
		}
		lates = append(lates, late)
	})
	for i, late := range lates[1:] {
		if least := stall - schedule.At(i+1); late < least {
			t.Errorf("call %d was %v late, must be at least %v", i+1, late, least)
		}
	}
}
