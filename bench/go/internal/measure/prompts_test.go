package measure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

// speaker answers every prompt by the same pieces, each after a while.
type speaker struct {
	takes  time.Duration
	pieces []string
	fails  error
}

func (s speaker) EchoPrompt(context.Context, string) (transport.Echoed, error) {
	return transport.Echoed{}, nil
}

func (s speaker) Stream(context.Context, *payload.Prompt) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, each := range s.pieces {
			time.Sleep(s.takes)
			if each == "now" {
				start := time.Now()
				at, _ := monotonicAt(start)
				each = fmt.Sprintf("%d ", at+time.Since(start))
			}
			if !yield(each, nil) {
				return
			}
		}
		if s.fails != nil {
			yield("", s.fails)
		}
	}
}

func TestAReplyIsTimedToItsFirstPieceAndFromThereByThePiece(t *testing.T) {
	const takes = 2 * time.Millisecond
	prompts := Prompts{
		Transport: speaker{takes: takes, pieces: []string{"To ", "be, ", "or "}},
		Table:     []payload.Prompt{{Steps: 3, Reply: "To be, or ", Pieces: 3}},
	}
	result := prompts.Closed(context.Background(), 5, 0)
	if result.Count != 5 || result.Errors != 0 {
		t.Fatalf("%d right, %d wrong (%v)", result.Count, result.Errors, result.FirstError)
	}
	for name, h := range map[string]int64{"first": result.Latency.Min(), "piece": result.Pieces.Min()} {
		if time.Duration(h) < takes*99/100 {
			t.Errorf("%s: %v, cannot be less than %v", name, time.Duration(h), takes)
		}
	}
	if n := result.Pieces.TotalCount(); n != 5 {
		t.Errorf("%d replies timed by the piece, want 5", n)
	}
}

func TestEveryStampedPieceIsTimedSinceItWasMade(t *testing.T) {
	prompts := Prompts{
		Transport: speaker{pieces: []string{"now", "now", "now"}}, Table: []payload.Prompt{{Steps: 3, Pieces: 3}}, Stamped: true,
	}
	began := time.Now()
	result := prompts.Closed(context.Background(), 4, 0)
	lasted := time.Since(began)
	if result.Count != 4 || result.Pieces.TotalCount() != 12 {
		t.Fatalf("%d right (%v), %d pieces", result.Count, result.FirstError, result.Pieces.TotalCount())
	}
	if longest := time.Duration(result.Pieces.Max()); longest > lasted*1001/1000 { // to three digits
		t.Errorf("a piece was under way for %v of a run of %v", longest, lasted)
	}
}

func TestAWrongReplyEndsTheRunAndIsNoSample(t *testing.T) {
	table := []payload.Prompt{{Steps: 2, Reply: "a b ", Pieces: 2}}
	for name, each := range map[string]Prompts{
		"another text":    {Transport: speaker{pieces: []string{"a ", "c "}}},
		"nothing":         {Transport: speaker{}},
		"an error":        {Transport: speaker{pieces: []string{"a ", "b "}, fails: errors.New("lost")}},
		"no moments":      {Transport: speaker{pieces: []string{"a ", "b "}}, Stamped: true},
		"too few moments": {Transport: speaker{pieces: []string{"now"}}, Stamped: true},
		"going back":      {Transport: speaker{pieces: []string{"now", "1 "}}, Stamped: true},
	} {
		each.Table = table
		if result := each.Closed(context.Background(), 3, 0); result.Count != 0 || result.Errors != 1 || result.FirstError == nil {
			t.Errorf("%s: %d right, %d errors (%v)", name, result.Count, result.Errors, result.FirstError)
		}
	}
}

func TestAnEchoOfTextIsCompared(t *testing.T) {
	entry := &payload.Texts(1)[0]
	if len(entry.Text) != 200 {
		t.Fatalf("a text of %d bytes", len(entry.Text))
	}
	for text, right := range map[string]bool{entry.Text: true, strings.ToLower(entry.Text): false, "": false} {
		if err := EchoPrompt.check(entry, answer{echoed: transport.Echoed{Text: text}}); (err == nil) != right {
			t.Errorf("%q: %v", text, err)
		}
	}
}
