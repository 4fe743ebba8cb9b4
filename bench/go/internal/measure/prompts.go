package measure

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

// Prompts has prompts answered, one after the other. Result.Latency is the time to the first piece.
type Prompts struct {
	Transport transport.Prompter
	Table     []payload.Prompt
	// Stamped: each piece is the moment, in nanoseconds of CLOCK_MONOTONIC, at which it was made. Result.Pieces is the time
	// from there until it was here. Otherwise it is the time from the first piece to the last by the pieces between.
	Stamped bool
	Pause   time.Duration // between two prompts: everybody goes to sleep
}

// piece is some text and when it came. What comes in quick succession comes as one.
type piece struct {
	text string
	at   time.Duration
}

// Closed makes so many calls or, with calls 0, goes on until lasting is over.
func (p Prompts) Closed(ctx context.Context, calls int, lasting time.Duration) Result {
	mine, between := newRecorder(), newHistogram()
	pieces := make([]piece, 0, 1024)
	start := time.Now()
	zero, err := monotonicAt(start)
	for i := 0; err == nil && (calls == 0 || i < calls) && (calls != 0 || time.Since(start) < lasting); i++ {
		prompt := &p.Table[i%len(p.Table)]
		pieces = pieces[:0]
		began := time.Since(start)
		for text, failed := range p.Transport.Stream(ctx, prompt) {
			pieces = append(pieces, piece{text, time.Since(start)})
			err = failed
		}
		if err != nil {
			break
		}
		var spans []time.Duration
		if spans, err = p.spans(prompt, pieces, zero); err != nil {
			break
		}
		mine.add(pieces[0].at-began, answer{}, nil)
		for _, span := range spans {
			record(between, span)
		}
		if p.Pause > 0 {
			time.Sleep(p.Pause)
		}
	}
	if err != nil {
		mine.add(0, answer{}, err)
	}
	out := result([]*recorder{mine}, time.Since(start))
	out.Pieces = between
	return out
}

// spans checks a reply and is what Result.Pieces gets of it.
func (p Prompts) spans(prompt *payload.Prompt, pieces []piece, zero time.Duration) ([]time.Duration, error) {
	if p.Stamped {
		return stamps(prompt, pieces, zero)
	}
	var text strings.Builder
	for _, each := range pieces {
		text.WriteString(each.text)
	}
	if text.String() != prompt.Reply {
		return nil, fmt.Errorf("the reply to %q is %q, which in process is %q", prompt.Text, text.String(), prompt.Reply)
	}
	return []time.Duration{(pieces[len(pieces)-1].at - pieces[0].at) / time.Duration(prompt.Pieces-1)}, nil
}

// stamps is how long each piece was under way.
func stamps(prompt *payload.Prompt, pieces []piece, zero time.Duration) ([]time.Duration, error) {
	var spans []time.Duration
	last := int64(0)
	for _, each := range pieces {
		for _, word := range strings.Fields(each.text) {
			made, err := strconv.ParseInt(word, 10, 64)
			if err != nil || made <= last {
				return nil, fmt.Errorf("%q after %d is no moment", word, last)
			}
			spans = append(spans, each.at+zero-time.Duration(made))
			last = made
		}
	}
	if len(spans) != prompt.Pieces {
		return nil, fmt.Errorf("%d moments, not %d", len(spans), prompt.Pieces)
	}
	return spans, nil
}
