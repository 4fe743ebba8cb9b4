// Package integration tests the client against real servers: Python processes that are stopped and killed.
//
// SHM_PYTHON names the interpreter that has shm_server installed; `make test-go` sets it.
package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
)

// server is a running tests/stub_server.py or stub_generators.py.
type server struct {
	t       *testing.T
	path    string
	command *exec.Cmd
	log     lockedBuffer
	ended   chan struct{}
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// start starts a server at path ("" for a new one) and waits until it listens.
func start(t *testing.T, path, kind string, args ...string) *server {
	t.Helper()
	python := os.Getenv("SHM_PYTHON")
	if python == "" {
		t.Skip("SHM_PYTHON is not set: run `make test-go`")
	}
	if path == "" {
		path = filepath.Join(t.TempDir(), "sock")
	}
	return startCommand(t, path, exec.Command(python, append([]string{"../../tests/stub_server.py", kind, path}, args...)...))
}

// startInAnotherTime is start in a time namespace whose clock is a day ahead.
func startInAnotherTime(t *testing.T, kind string, args ...string) *server {
	t.Helper()
	python := os.Getenv("SHM_PYTHON")
	if python == "" {
		t.Skip("SHM_PYTHON is not set: run `make test-go`")
	}
	unshare := []string{"unshare", "--time", "--monotonic", "86400", "--fork", "--kill-child"}
	if said, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("there are no time namespaces here, or not for this user: %s%v", said, err)
	}
	path := filepath.Join(t.TempDir(), "sock")
	command := append(append(unshare, python, "../../tests/stub_server.py", kind, path), args...)
	return startCommand(t, path, exec.Command(command[0], command[1:]...))
}

func startCommand(t *testing.T, path string, command *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, path: path, ended: make(chan struct{}), command: command}
	s.command.Stdout, s.command.Stderr = &s.log, &s.log
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.command.Wait() // killed on purpose, mostly
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.signal(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log.String())
		}
	})
	listens := func() bool { return strings.Contains(s.log.String(), "listening on") }
	eventually(t, "the server listens", func() bool { return listens() || s.hasEnded() })
	if !listens() {
		t.Fatal("the server ended before it listened")
	}
	return s
}

func (s *server) waitFor(text string) {
	s.t.Helper()
	eventually(s.t, "the server says "+text, func() bool { return strings.Contains(s.log.String(), text) })
}

func (s *server) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// signal sends a signal and waits for the end of the server.
func (s *server) signal(number syscall.Signal) {
	_ = s.command.Process.Signal(number) // it may have ended before
	<-s.ended
}

// slots asks for n slots of the default model.
func slots(n int) shm.Options {
	return shm.Options{Models: map[string]shm.ModelOptions{"": {Slots: n}}}
}

// prompts asks for n prompts at a time, of so many bytes.
func prompts(n, prompt, reply int) shm.Options {
	return shm.Options{StreamModels: map[string]shm.StreamModelOptions{"": {Slots: n, PromptBytes: prompt, ReplyBytes: reply}}}
}

func dial(t *testing.T, s *server, opts ...shm.Options) *shm.Client {
	t.Helper()
	client, err := shm.NewClient(s.path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// soon is a context that no call of a passing test outlives.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until done says true. When it never does, the test fails, with what every goroutine is at. The bound is what
// several processes that load NumPy on a busy machine do not need.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("waited in vain until %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func gray(level byte) []byte { return bytes.Repeat([]byte{level}, shm.PixelBytes) }
