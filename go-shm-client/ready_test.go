//go:build linux

package shm

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// listening has the fake answer with models of these states, by name.
func listening(states map[string]string) func(*fakeserver.Listener) {
	var models []ModelInfo
	for name, state := range states {
		signature := double.Signature
		signature.Name = name
		models = append(models, ModelInfo{Signature: signature, Protocol: "call", State: state})
	}
	return answering(fakeserver.AnswerMessage(models...))
}

func TestAClientIsMadeBeforeItsServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	client := clientOf(t, path)
	for name, call := range calls(client) {
		if err := call(soon(t)); !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.Model(soon(t), "double"); !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) {
		t.Errorf("Model: %v", err)
	}
	startFakeAt(t, path, 4)
	if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
		t.Errorf("once it is up: %+v, %v", result, err)
	}
}

func TestAModelIsConnectedToWhenItIsFirstUsedAndNoOther(t *testing.T) {
	f := withModels(t, &double)
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(name string) *doorbell.RefusedError {
			if name == "" {
				return &doorbell.RefusedError{Reason: layout.ReasonNoSuchModel, Message: "there is no default"}
			}
			return nil
		}
	})
	client := clientOf(t, f.Path)
	if f.Last() != nil {
		t.Error("it connected without being asked to")
	}
	if y, err := Call[float32](soon(t), mustModel(t, client, "double"), make([]float32, 4)); err != nil || len(y) != 4 {
		t.Errorf("%v, %v", y, err)
	}
	if _, err := client.Classify(soon(t), gray(1)); !errors.Is(err, ErrNoSuchModel) || !errors.Is(err, ErrNotRun) {
		t.Errorf("Classify: %v", err)
	}
	if n := len(f.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestWaitingForAServerThatIsNotUpYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	var text lockedBuffer
	client := clientOf(t, path, Options{Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ready := make(chan error)
	go func() { ready <- client.WaitReady(soon(t)) }()
	eventually(t, "it waits", func() bool { return strings.Contains(text.String(), "waiting for the server") })
	startFakeAt(t, path, 4)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if _, err := client.Echo(soon(t), gray(1)); err != nil {
		t.Error(err)
	}
}

func TestReadyIsAServerWhoseModelsAre(t *testing.T) {
	f := startFake(t, 4)
	f.Change(listening(map[string]string{"slow": "starting", "quick": "ready"}))
	client := clientOf(t, f.Path)
	if err := client.WaitReady(soon(t), "quick"); err != nil {
		t.Errorf("the one that is: %v", err)
	}
	for _, names := range [][]string{nil, {"slow"}, {"quick", "slow"}} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err := client.WaitReady(ctx, names...)
		if !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, ErrServerGone) || !strings.HasSuffix(err.Error(), "shm-server is not ready: slow is starting") {
			t.Errorf("%q: %v", names, err)
		}
		cancel()
	}
	if err := client.WaitReady(soon(t), "quick", "none"); !errors.Is(err, ErrNoSuchModel) || !strings.Contains(err.Error(), `"none", there are ["`) {
		t.Errorf("one that there is not: %v", err)
	}
	returned := make(chan error)
	for _, names := range [][]string{nil, {"slow"}} {
		go func() { returned <- client.WaitReady(soon(t), names...) }()
	}
	f.Change(listening(map[string]string{"slow": "ready", "quick": "ready"}))
	for range 2 {
		if err := <-returned; err != nil {
			t.Error(err)
		}
	}
	if f.Last() != nil {
		t.Error("waiting opened a session")
	}
}

func TestWaitingOutlastsAServerThatMakesRoomForTheNextOne(t *testing.T) {
	f := startFake(t, 4)
	var asked atomic.Int32
	f.Change(func(l *fakeserver.Listener) {
		l.Asked = func(question string) []byte {
			if asked.Add(1) <= 2 {
				return fakeserver.ReasonMessage(layout.FrameKindRefusal, layout.ReasonDraining, "")
			}
			return ready(question)
		}
	})
	if err := clientOf(t, f.Path).WaitReady(soon(t)); err != nil || asked.Load() != 3 {
		t.Errorf("%v, after %d questions", err, asked.Load())
	}
}

func TestWaitingEndsWithItsContextAndItsClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	client := clientOf(t, path)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := client.WaitReady(ctx); !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, ErrServerGone) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if err := client.WaitReady(ended()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waiting := make(chan error)
	go func() { waiting <- client.WaitReady(soon(t)) }()
	client.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestNobodyWaitsForAServerThatSaysNo(t *testing.T) {
	f := startFake(t, 4)
	f.Change(func(l *fakeserver.Listener) {
		l.Asked = func(string) []byte {
			return fakeserver.ReasonMessage(layout.FrameKindRefusal, layout.ReasonForbidden, "no")
		}
	})
	var refused *RefusedError
	if err := clientOf(t, f.Path).WaitReady(soon(t)); !errors.As(err, &refused) || errors.Is(err, ErrServerGone) {
		t.Error(err)
	}
}
