//go:build linux

package shm

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
)

func TestTheDefaultSocketLiesInTheUsersRuntimeDirectoryWhereThereIsOne(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
	if err := os.Mkdir("relative", 0o700); err != nil {
		t.Fatal(err)
	}
	const elsewhere = "/tmp/shm-server.sock"
	for runtime, want := range map[string]string{
		folder:              folder + "/shm-server.sock",
		folder + "/":        folder + "/shm-server.sock",
		"":                  elsewhere,
		"relative":          elsewhere,
		file:                elsewhere,
		folder + "/missing": elsewhere,
	} {
		t.Setenv("XDG_RUNTIME_DIR", runtime)
		if got := DefaultSocket(); got != want {
			t.Errorf("XDG_RUNTIME_DIR=%q: %q, want %q", runtime, got, want)
		}
	}
	os.Unsetenv("XDG_RUNTIME_DIR") // t.Setenv above puts it back
	if got := DefaultSocket(); got != elsewhere {
		t.Errorf("without XDG_RUNTIME_DIR: %q", got)
	}
}

func TestDiallingNobodyIsErrServerGoneWhateverIsAtThePath(t *testing.T) {
	folder := t.TempDir()
	left := filepath.Join(folder, "left") // by a server that was killed
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder + "/nobody", folder + "/no/folder", left, file} {
		_, err := Dial(soon(t), path)
		if !errors.Is(err, ErrServerGone) || !strings.HasPrefix(err.Error(), "connect to shm-server at "+path+": ") ||
			!strings.HasSuffix(err.Error(), "is `shm-server serve` running?") {
			t.Errorf("%s: %v", path, err)
		}
	}
	long := filepath.Join(folder, strings.Repeat("x", 108))
	if _, err := Dial(soon(t), long); err == nil || errors.Is(err, ErrServerGone) || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("a long path: %v", err)
	}
}

func TestDialWaitsForAServerThatIsNotUpYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	var text lockedBuffer
	logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dialled := make(chan error)
	go func() {
		client, err := Dial(soon(t), path, WaitForServer(), WithLogger(logger))
		if err == nil {
			defer client.Close()
			_, err = client.Echo(soon(t), gray(1))
		}
		dialled <- err
	}()
	eventually(t, "it waits", func() bool { return strings.Contains(text.String(), "waiting for the server") })
	startFakeAt(t, path, 4)
	if err := <-dialled; err != nil {
		t.Error(err)
	}
}

func TestDialWaitsWhileAServerMakesRoomForTheNextOne(t *testing.T) {
	f := startFake(t, 4)
	var refusals atomic.Int32
	f.Refuse = func(string) *doorbell.RefusedError {
		if refusals.Add(1) <= 2 {
			return &doorbell.RefusedError{Reason: layout.ReasonDraining}
		}
		return nil
	}
	client := dialFake(t, f, WaitForServer())
	if _, err := client.Echo(soon(t), gray(1)); err != nil || refusals.Load() != 3 {
		t.Errorf("%v, after %d refusals", err, refusals.Load())
	}
}

func TestAWaitForAServerEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, path, WaitForServer())
	if !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, ErrServerGone) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if _, err := Dial(ended(), path, WaitForServer()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDialDoesNotWaitForAServerThatSaysNo(t *testing.T) {
	f := startFake(t, 4)
	f.Refuse = func(string) *doorbell.RefusedError {
		return &doorbell.RefusedError{Reason: layout.ReasonTooManySessions}
	}
	var refused *RefusedError
	if _, err := Dial(soon(t), f.Path, WaitForServer()); !errors.As(err, &refused) || errors.Is(err, ErrServerGone) {
		t.Error(err)
	}
}

func TestAnEmptyPathIsTheDefaultSocket(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if _, err := Dial(soon(t), ""); err == nil || !strings.Contains(err.Error(), "at "+DefaultSocket()+":") {
		t.Error(err)
	}
	f := startFakeAt(t, DefaultSocket(), 4)
	client, err := Dial(soon(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Echo(context.Background(), gray(1)); err != nil || f.Last().Taken.Load() != 1 {
		t.Error(err)
	}
}
