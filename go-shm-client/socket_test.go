package shm

import (
	"context"
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
