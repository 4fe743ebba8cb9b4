//go:build linux

package shm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

func TestACallToNobodyIsErrServerGoneWhateverIsAtThePath(t *testing.T) {
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
		_, err := clientOf(t, path).Classify(soon(t), gray(1))
		if !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) || !strings.HasPrefix(err.Error(), "connect to shm-server at "+path+": ") ||
			!strings.HasSuffix(err.Error(), "is `shm-server serve` running?") {
			t.Errorf("%s: %v", path, err)
		}
	}
	long := filepath.Join(folder, strings.Repeat("x", 108))
	if err := clientOf(t, long).WaitReady(soon(t)); err == nil || errors.Is(err, ErrServerGone) || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("a long path: %v", err)
	}
}

func TestAnEmptyPathIsTheDefaultSocket(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if _, err := clientOf(t, "").Models(soon(t)); err == nil || !strings.Contains(err.Error(), "at "+DefaultSocket()+":") {
		t.Error(err)
	}
	f := startFakeAt(t, DefaultSocket(), 4)
	if _, err := clientOf(t, "").Echo(context.Background(), gray(1)); err != nil || f.Last().Taken.Load() != 1 {
		t.Error(err)
	}
}
