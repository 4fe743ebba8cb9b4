package measure

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

// fake answers every echo after a while.
type fake struct {
	takes time.Duration
	spoil func(call int, echo []byte) ([]byte, error)
	calls int
}

func (f *fake) Echo(ctx context.Context, bytes []byte) (transport.Echoed, error) {
	f.calls++
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return transport.Echoed{}, ctx.Err()
	}
	if f.spoil != nil {
		echo, err := f.spoil(f.calls, append([]byte{}, bytes...))
		return transport.Echoed{Bytes: echo}, err
	}
	return transport.Echoed{Bytes: bytes}, nil
}

func (f *fake) Classify(context.Context, []byte) (transport.Classified, error) {
	return transport.Classified{Label: "cat", Batch: 4}, nil
}
func (f *fake) Stats() map[string]uint64 { return nil }
func (f *fake) Close() error             { return nil }

func run(f *fake, op Op) Run {
	return Run{Transport: f, Op: op, Table: payload.Random(1), Callers: 1}
}

func TestAnOpenLoopMeasuresFromWhenACallWasDue(t *testing.T) {
	// A call is due every 5 ms and takes 10 ms: each waits longer than the one before it.
	const calls, every, takes = 40, 5 * time.Millisecond, 10 * time.Millisecond
	result := run(&fake{takes: takes}, Echo).Open(context.Background(), 200, calls*every)
	if result.Count+result.Unfinished != calls || result.Errors != 0 { // on a busy machine some are given up
		t.Fatalf("%d calls, %d unfinished, %d errors, want %d in all", result.Count, result.Unfinished, result.Errors, calls)
	}
	if longest, least := time.Duration(result.Latency.Max()), calls*takes-(calls-1)*every; longest < least {
		t.Errorf("the last call took %v from when it was due, cannot be less than %v", longest, least)
	}
	if result.InTime > calls/2 {
		t.Errorf("%d calls were answered in time, at most %d could be", result.InTime, calls/2)
	}
}

func TestCallsThatAreNotAnsweredCountWithTheTimeThatTheyWaited(t *testing.T) {
	const lasting = 50 * time.Millisecond
	result := run(&fake{takes: time.Hour}, Echo).Open(context.Background(), 100, lasting)
	if result.Count != 0 || result.Errors != 0 || result.Unfinished != 5 {
		t.Fatalf("%d answered, %d errors, %d unfinished, want 0, 0 and 5", result.Count, result.Errors, result.Unfinished)
	}
	if n := result.Latency.TotalCount(); n != 5 {
		t.Errorf("%d samples, want 5", n)
	}
	if shortest := time.Duration(result.Latency.Min()); shortest < grace {
		t.Errorf("the shortest of them waited %v, must be at least %v", shortest, grace)
	}
}

func TestAClosedLoopMakesAsManyCallsAsAskedFor(t *testing.T) {
	f := &fake{}
	loop := run(f, Echo)
	if result := loop.Closed(context.Background(), 123, 0); result.Count != 123 || f.calls != 123 {
		t.Errorf("%d counted, %d made, want 123", result.Count, f.calls)
	}
	if result := loop.Closed(context.Background(), 0, 20*time.Millisecond); result.Wall < 20*time.Millisecond {
		t.Errorf("ended after %v, want 20 ms", result.Wall)
	}
}

func TestAWrongOrFailedAnswerIsAnErrorAndNoSample(t *testing.T) {
	lost := errors.New("lost")
	for name, spoil := range map[string]func(int, []byte) ([]byte, error){
		"one bit changed": func(_ int, echo []byte) ([]byte, error) { echo[3071] ^= 1; return echo, nil },
		"one byte short":  func(_ int, echo []byte) ([]byte, error) { return echo[1:], nil },
		"nothing":         func(int, []byte) ([]byte, error) { return []byte{}, nil },
		"no checksum":     func(int, []byte) ([]byte, error) { return nil, nil },
		"an error":        func(int, []byte) ([]byte, error) { return nil, lost },
	} {
		result := run(&fake{spoil: spoil}, Echo).Closed(context.Background(), 5, 0)
		if result.Count != 0 || result.Errors != 1 || result.FirstError == nil || result.Latency.TotalCount() != 0 {
			t.Errorf("%s: %d right, %d errors (%v), %d samples", name,
				result.Count, result.Errors, result.FirstError, result.Latency.TotalCount())
		}
	}
}

func TestALabelMustBeTheReference(t *testing.T) {
	table := payload.Table{{Bytes: []byte{1}, Label: "cat"}, {Bytes: []byte{2}, Label: "dog"}}
	result := Run{Transport: &fake{}, Op: Classify, Table: table, Callers: 1}.Closed(context.Background(), 2, 0)
	if result.Count != 1 || result.Errors != 1 {
		t.Errorf("%d right and %d wrong, want one of each", result.Count, result.Errors)
	}
	if result.Batches[4] != 1 {
		t.Errorf("batches %v, want one of 4", result.Batches)
	}
}

func TestAnEncodedHistogramDecodesToTheSameSamples(t *testing.T) {
	h := newHistogram()
	for _, took := range []time.Duration{0, 1, 1499, 50 * time.Microsecond, 3 * time.Second, time.Hour} {
		record(h, took)
	}
	encoded, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := hdrhistogram.Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !decoded.Equals(h) || decoded.TotalCount() != 6 {
		t.Errorf("%d samples decoded, want 6", decoded.TotalCount())
	}
}

// filled gives back the row that it got, or another one, and says that it took an hour to put it where it is read.
type filled struct {
	fake
	spoils bool
	models []string
}

func (f *filled) Call(_ context.Context, model string, row []byte) (transport.Returned, error) {
	f.models = append(f.models, model)
	r := transport.Returned{Bytes: append([]byte{}, row...), Filling: time.Hour}
	if f.spoils {
		r.Bytes[0]++
	}
	return r, nil
}

func TestPuttingARowInPlaceIsNoPartOfACall(t *testing.T) {
	f := &filled{}
	calls := Run{Transport: f, Op: Call("iris"), Table: payload.Rows(1, 64), Callers: 1}
	result := calls.Closed(context.Background(), 3, 0)
	if result.Count != 3 || result.Errors != 0 || result.Latency.Max() != 1 { // less than nothing counts as a nanosecond
		t.Errorf("%d right (%v), the longest took %d ns", result.Count, result.FirstError, result.Latency.Max())
	}
	if len(f.models) != 3 || f.models[0] != "iris" {
		t.Errorf("called %v", f.models)
	}
}

func TestARowThatComesBackIsComparedUnlessNobodyTouchesIt(t *testing.T) {
	for name, each := range map[string]struct {
		transport transport.Transport
		table     payload.Table
		right     bool
	}{
		"by a model": {&filled{}, payload.Rows(1, 64), true},
		"another":    {&filled{spoils: true}, payload.Rows(1, 64), false},
		"by an echo": {&fake{}, payload.Rows(1, 64), true},
		"untouched":  {&filled{}, payload.Nothing(), true},
		"by an echo, but another": {
			&fake{spoil: func(_ int, echo []byte) ([]byte, error) { return echo[1:], nil }}, payload.Rows(1, 64), false,
		},
	} {
		result := Run{Transport: each.transport, Op: Call(""), Table: each.table, Callers: 1}.Closed(context.Background(), 1, 0)
		if (result.Errors == 0) != each.right {
			t.Errorf("%s: %v", name, result.FirstError)
		}
	}
}

func TestARunEndsWhenItIsStopped(t *testing.T) {
	f := &fake{}
	stop := new(atomic.Bool)
	f.spoil = func(call int, echo []byte) ([]byte, error) { stop.Store(call == 5); return echo, nil }
	loop := run(f, Echo)
	loop.Stop = stop
	if result := loop.Closed(context.Background(), 0, time.Hour); result.Count != 5 || result.Errors != 0 {
		t.Errorf("%d calls (%v), want 5", result.Count, result.FirstError)
	}
}

func TestACallersThreadThatCannotBePinnedIsAnError(t *testing.T) {
	f := &fake{}
	loop := run(f, Echo)
	loop.Cores = []int{1023}
	if result := loop.Closed(context.Background(), 5, 0); result.Errors != 1 || f.calls != 0 {
		t.Errorf("%d calls, %v", f.calls, result.FirstError)
	}
}
