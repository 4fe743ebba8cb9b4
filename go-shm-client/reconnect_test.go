//go:build linux

package shm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

func TestAServerThatDiesFailsCallsInFlightAndIsFoundAgain(t *testing.T) {
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": time.Minute, "forever": SpinForever} {
		f := startFake(t, 4)
		client := dialFake(t, f, Options{Spin: spin})
		f.paused.Store(true)
		calls := []<-chan error{
			inFlight(t, f, func() error { _, err := client.Classify(context.Background(), gray(1)); return err }),
			inFlight(t, f, func() error { _, err := client.Echo(soon(t), gray(1)); return err }),
		}
		f.Last().Kill()
		for _, call := range calls {
			if err := <-call; !errors.Is(err, ErrServerGone) || errors.Is(err, ErrDraining) || errors.Is(err, ErrProtocol) {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.paused.Store(false)
		eventually(t, "a new connection", func() bool { return client.Stats().Reconnects == 1 })
		if err := client.WaitReady(soon(t)); err != nil {
			t.Fatal(err)
		}
		if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
		if n := client.Stats().Requests; n != 3 {
			t.Errorf("%s: %d requests: one was retried, or the counters began anew", name, n)
		}
		client.Close()
	}
}

func TestWithoutAServerCallsFailAtOnceUntilItIsBack(t *testing.T) {
	f := startFake(t, 4)
	var text lockedBuffer
	client := dialFake(t, f, Options{Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	path := f.Path
	f.Close()
	eventually(t, "the client has noticed", func() bool {
		_, err := client.Echo(soon(t), gray(1))
		return err != nil
	})
	if _, err := client.ReserveImage(soon(t)); !errors.Is(err, ErrServerGone) {
		t.Errorf("ReserveImage: %v", err)
	}
	eventually(t, "it has tried again", func() bool {
		_, err := client.Echo(soon(t), gray(1))
		return strings.Contains(err.Error(), "reconnecting: connect to shm-server at "+path)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := client.WaitReady(ctx); !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, ErrServerGone) {
		t.Errorf("WaitReady: %v", err)
	}

	again := &fakeserver.Listener{Path: path, Slots: 7, Asked: ready, Behaviour: func() fakeserver.Behaviour { return fakeserver.Behaviour{} }}
	if err := again.Listen(); err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := client.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Classify(soon(t), gray(1)); err != nil {
		t.Error(err)
	}
	if info, err := client.Info(soon(t)); err != nil || info.Slots != 7 {
		t.Errorf("%+v, %v: the info is of the old server", info, err)
	}
	for _, line := range []string{"connection lost", "reconnect failed", "connected"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("not logged: %s", line)
		}
	}
	client.Close()
}

func TestClosingWhileDisconnectedEndsAtOnce(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	f.Close()
	eventually(t, "the client has noticed", func() bool {
		_, err := client.Echo(soon(t), gray(1))
		return err != nil
	})
	client.Close()
	if _, err := client.Echo(soon(t), gray(1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestADrainingServerAnswersWhatItHasAndTakesNothingNew(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	f.paused.Store(true)
	answered := inFlight(t, f, func() error { _, err := client.Classify(soon(t), gray(1)); return err })
	f.Last().Drain()
	for name, call := range map[string]func() error{
		"Classify":        func() error { _, err := client.Classify(soon(t), gray(1)); return err },
		"TryEcho":         func() error { _, err := client.TryEcho(soon(t), gray(1)); return err },
		"ReserveImage":    func() error { _, err := client.ReserveImage(soon(t)); return err },
		"TryReserveImage": func() error { _, err := client.TryReserveImage(soon(t)); return err },
	} {
		if err := call(); !errors.Is(err, ErrDraining) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.paused.Store(false)
	if err := <-answered; err != nil {
		t.Errorf("what was in flight: %v", err)
	}
}

func TestAGoodbyeIsTheErrorOfCallsInFlight(t *testing.T) {
	for _, c := range []struct {
		reason uint16
		is     error
	}{{layout.ReasonDraining, ErrDraining}, {layout.ReasonInternal, ErrServerGone}, {layout.ReasonProtocol, ErrProtocol}} {
		f := startFake(t, 4)
		client := dialFake(t, f)
		f.Refuse = func(string) *doorbell.RefusedError { return &doorbell.RefusedError{Reason: layout.ReasonDraining} }
		f.paused.Store(true)
		call := inFlight(t, f, func() error { _, err := client.Classify(soon(t), gray(1)); return err })
		f.Last().Goodbye(c.reason, "see you")
		if err := <-call; !errors.Is(err, c.is) || !errors.Is(err, ErrServerGone) || !strings.Contains(err.Error(), "see you") {
			t.Errorf("reason %d: %v", c.reason, err)
		}
		eventually(t, "the refusal shows", func() bool {
			_, err := client.Echo(soon(t), gray(1))
			var refused *RefusedError
			return errors.As(err, &refused) && errors.Is(err, ErrServerGone)
		})
		client.Close()
	}
}

func TestAServerThatBreaksTheProtocolIsLeft(t *testing.T) {
	f := startFake(t, 4)
	f.Behaviour = func() fakeserver.Behaviour {
		return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, got layout.Submission) {
			if s.Input(0, got.Slot)[0] == 66 {
				s.Publish(layout.Completion{Slot: got.Slot, RequestID: got.RequestID + 1})
				return
			}
			fakeserver.EchoOrClassify(s, got)
		}}
	}
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": time.Minute} {
		client := dialFake(t, f, Options{Spin: spin})
		if _, err := client.Classify(soon(t), gray(66)); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrServerGone) {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, "a new connection", func() bool { return client.Stats().Reconnects == 1 })
		if _, err := client.Classify(soon(t), gray(1)); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
		client.Close()
	}
}

func TestARefusedCallFailsAlone(t *testing.T) {
	f := startFake(t, 4)
	f.Behaviour = func() fakeserver.Behaviour {
		return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, got layout.Submission) {
			switch s.Input(0, got.Slot)[0] {
			case 3:
				s.Answer(got, layout.Completion{Status: layout.StatusDeadlineExceeded})
			case 4:
				s.Answer(got, layout.Completion{Status: layout.StatusDraining})
			default:
				fakeserver.EchoOrClassify(s, got)
			}
		}}
	}
	client := dialFake(t, f)
	for value, want := range map[byte]error{3: ErrDeadlineExceeded, 4: ErrDraining} {
		if _, err := client.Classify(soon(t), gray(value), WithScores(nil)); !errors.Is(err, want) || errors.Is(err, ErrServerGone) {
			t.Errorf("%d: %v, want %v", value, err, want)
		}
	}
	if _, err := client.Classify(soon(t), gray(9)); err != nil || client.Stats().Reconnects != 0 {
		t.Errorf("%v, %+v", err, client.Stats())
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
