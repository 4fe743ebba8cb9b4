//go:build linux

package shm

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// calls are one of each kind, that wait for a slot and that do not.
func calls(client *Client) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Classify":     func(ctx context.Context) error { _, err := client.Classify(ctx, gray(1)); return err },
		"TryClassify":  func(ctx context.Context) error { _, err := client.TryClassify(ctx, gray(1)); return err },
		"Echo":         func(ctx context.Context) error { _, err := client.Echo(ctx, gray(1)); return err },
		"TryEcho":      func(ctx context.Context) error { _, err := client.TryEcho(ctx, gray(1)); return err },
		"Ping":         func(ctx context.Context) error { _, err := client.Ping(ctx); return err },
		"ReserveImage": func(ctx context.Context) error { _, err := client.ReserveImage(ctx); return err },
		"Prompt":       func(ctx context.Context) error { _, err := client.Prompt(ctx, "x"); return err },
		"TryPrompt":    func(ctx context.Context) error { _, err := client.TryPrompt(ctx, "x"); return err },
		"EchoPrompt":   func(ctx context.Context) error { _, err := client.EchoPrompt(ctx, "x"); return err },
		"Stream": func(ctx context.Context) (last error) {
			for _, err := range client.Stream(ctx, "x") {
				last = err
			}
			return last
		},
		"TryStream": func(ctx context.Context) (last error) {
			for _, err := range client.TryStream(ctx, "x") {
				last = err
			}
			return last
		},
	}
}

func TestACallThatWasNotSentSaysSo(t *testing.T) {
	f := startFake(t, 1)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Finish(got, layout.StatusOK, "") }
	client := dialFake(t, f)
	if _, err := client.Prompt(soon(t), "x"); err != nil { // connects the second session
		t.Fatal(err)
	}
	sent := client.Stats().Requests
	mustNotRun := func(why, call string, err, is error) {
		t.Helper()
		if !errors.Is(err, ErrNotRun) || !errors.Is(err, is) {
			t.Errorf("%s: %s: %v", why, call, err)
		}
	}
	for name, call := range calls(client) {
		if name != "ReserveImage" { // which takes a free slot at once whatever its context
			mustNotRun("the context has ended", name, call(ended()), context.Canceled)
		}
	}
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(client) {
		if strings.HasSuffix(name, "Prompt") || strings.HasSuffix(name, "Stream") { // whose slot is free
			continue
		}
		if strings.HasPrefix(name, "Try") {
			mustNotRun("every slot is taken", name, call(soon(t)), ErrRingFull)
		} else {
			mustNotRun("the context ends before a slot is free", name, call(ended()), context.Canceled)
		}
	}
	_, err = client.Classify(soon(t), nil)
	mustNotRun("no pixels", "Classify", err, ErrPixelCount)
	_, err = client.Prompt(soon(t), strings.Repeat("x", 1000))
	mustNotRun("a long prompt", "Prompt", err, ErrInvalidPrompt)
	slot.Release()
	_, err = slot.Classify(soon(t))
	mustNotRun("after its lease", "Slot.Classify", err, ErrSlotReleased)

	images := f.Sessions()[0]
	images.Drain()
	for _, name := range []string{"Classify", "TryClassify", "Echo", "TryEcho", "Ping", "ReserveImage"} {
		mustNotRun("draining", name, calls(client)[name](soon(t)), ErrDraining)
	}
	f.Close()
	for _, l := range []*link{client.images.made.Load(), client.prompts.made.Load()} {
		eventually(t, "the client has noticed", func() bool { return l.current.Load() == nil })
	}
	for name, call := range calls(client) {
		mustNotRun("the server is gone", name, call(soon(t)), ErrServerGone)
	}
	client.Close()
	for name, call := range calls(client) {
		mustNotRun("the client is closed", name, call(soon(t)), ErrClosed)
	}
	if n := client.Stats().Requests; n != sent {
		t.Errorf("%d requests were sent after all", n-sent)
	}
}

func TestACallThatMayHaveRunNeverClaimsThatItWasNot(t *testing.T) {
	mayHaveRun := func(why string, err, is error) {
		t.Helper()
		if errors.Is(err, ErrNotRun) || !errors.Is(err, is) {
			t.Errorf("%s: %v", why, err)
		}
	}
	for why, end := range map[string]struct {
		is   error
		does func(f *fake, client *Client, cancel func())
	}{
		"the server dies":            {ErrServerGone, func(f *fake, _ *Client, _ func()) { f.Last().Kill() }},
		"the server says goodbye":    {ErrDraining, func(f *fake, _ *Client, _ func()) { f.Last().Goodbye(layout.ReasonDraining, "bye") }},
		"the server breaks the page": {ErrProtocol, func(f *fake, _ *Client, _ func()) { f.Last().PublishTurn(77) }},
		"the context ends":           {context.Canceled, func(_ *fake, _ *Client, cancel func()) { cancel() }},
		"the client is closed":       {ErrClosed, func(_ *fake, client *Client, _ func()) { client.Close() }},
	} {
		f := startFake(t, 2)
		client := dialFake(t, f)
		f.paused.Store(true)
		ctx, cancel := context.WithCancel(context.Background())
		call := inFlight(t, f, func() error { _, err := client.Classify(ctx, gray(1)); return err })
		end.does(f, client, cancel)
		mayHaveRun(why, <-call, end.is)
		cancel()
	}

	f := startFake(t, 2)
	mayHaveRun("the model failed", func() error { _, err := dialFake(t, f).Classify(soon(t), gray(13)); return err }(), ErrModel)
}

func TestWhatTheServerRefusedWasNotRunButWhatItBeganMayHaveBeen(t *testing.T) {
	var status, batch atomic.Uint32
	f := startFake(t, 2)
	f.Behaviour = func() fakeserver.Behaviour {
		return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, got layout.Submission) {
			s.Answer(got, layout.Completion{Status: uint16(status.Load()), Batch: batch.Load()})
		}}
	}
	f.Prompts = f.Behaviour().Answer
	client := dialFake(t, f)
	for number, is := range map[uint16]error{layout.StatusDeadlineExceeded: ErrDeadlineExceeded, layout.StatusDraining: ErrDraining} {
		status.Store(uint32(number))
		for ran := range uint32(2) {
			batch.Store(ran) // 0: nothing was run, layout.md says
			_, classify := client.Classify(soon(t), gray(1))
			_, prompt := client.Prompt(soon(t), "x")
			for _, err := range []error{classify, prompt} {
				if !errors.Is(err, is) || errors.Is(err, ErrNotRun) != (ran == 0) {
					t.Errorf("batch %d: %v", ran, err)
				}
			}
		}
	}
}

func TestAPromptThatIsNoPromptWasNotRun(t *testing.T) {
	f := startFake(t, 2)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Finish(got, layout.StatusInvalid, "it is\nempty") }
	_, err := dialFake(t, f).Prompt(soon(t), "x")
	if !errors.Is(err, ErrInvalidPrompt) || !errors.Is(err, ErrNotRun) || !strings.HasSuffix(err.Error(), "it is empty") {
		t.Error(err)
	}
}
