package transport_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
	"go-shm-client/transport"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func gray(level byte) []byte { return bytes.Repeat([]byte{level}, shm.PixelBytes) }

// addresses are those of a real server that offers every transport over one model: dark and bright by brightness.
// SHM_PYTHON, which `make test-go` sets, starts one; SHM_TEST_SHM, SHM_TEST_UDS and SHM_TEST_HTTP name one that runs.
func addresses(t *testing.T, kind string) []string {
	t.Helper()
	var named []string
	for _, each := range [][2]string{{"SHM_TEST_SHM", "shm:"}, {"SHM_TEST_UDS", "uds:"}, {"SHM_TEST_HTTP", ""}} {
		if at := os.Getenv(each[0]); at != "" {
			named = append(named, each[1]+at)
		}
	}
	python := os.Getenv("SHM_PYTHON")
	switch {
	case kind == "guarded" && named != nil:
		return named
	case python == "":
		t.Skip("SHM_PYTHON is not set: run `make test-go`")
	}
	folder := t.TempDir()
	log, err := os.Create(folder + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(python, "../../tests/stub_transports.py", kind, folder)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		if err := command.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		said, _ := os.ReadFile(log.Name())
		if strings.Contains(string(said), "listening on "+folder+"/shm") {
			url := regexp.MustCompile(`http://127[\d.:]+`).FindString(string(said))
			return []string{"shm:" + folder + "/shm", "uds:" + folder + "/uds", url}
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not listen:\n%s", said)
		}
	}
}

func dial(t *testing.T, address string) transport.Client {
	t.Helper()
	client, err := transport.Dial(soon(t), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestEveryTransportGivesTheSameAnswers(t *testing.T) {
	for _, address := range addresses(t, "guarded") {
		scheme, _, _ := strings.Cut(address, ":")
		t.Run(scheme, func(t *testing.T) {
			client := dial(t, address)
			for level, want := range map[byte]string{0: "dark", 255: "bright"} {
				if label, err := client.Classify(soon(t), gray(level)); err != nil || label != want {
					t.Errorf("%q, %v", label, err)
				}
			}
			for range 100 {
				payload := gray(0)
				for i := range payload {
					payload[i] = byte(rand.Uint32())
				}
				if err := client.Echo(soon(t), payload); err != nil {
					t.Error(err)
				}
			}
			if _, err := client.Classify(soon(t), make([]byte, 3071)); !errors.Is(err, shm.ErrPixelCount) {
				t.Errorf("a byte too few: %v", err)
			}
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			if err := client.Echo(ended, gray(0)); !errors.Is(err, context.Canceled) {
				t.Errorf("an ended context: %v", err)
			}
			client.Close()
			if err := client.Echo(soon(t), gray(0)); !errors.Is(err, shm.ErrClosed) {
				t.Errorf("after close: %v", err)
			}
			if err := client.Close(); err != nil {
				t.Errorf("closed twice: %v", err)
			}
		})
	}
}

func TestEveryTransportServesManyGoroutinesAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for _, address := range addresses(t, "guarded") { // its model fails when two threads are in it
		client := dial(t, address)
		for g := range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				for range 20 {
					want := map[bool]string{false: "dark", true: "bright"}[g%2 == 0]
					if label, err := client.Classify(soon(t), gray(byte(255*(1-g%2)))); err != nil || label != want {
						t.Errorf("%s: %q, %v", address, label, err)
						return
					}
				}
			}()
		}
	}
	all.Wait()
}

func TestAModelThatFailsIsAnErrorOnEveryTransportAndTheNextCallWorks(t *testing.T) {
	for _, address := range addresses(t, "raising") {
		client := dial(t, address)
		_, err := client.Classify(soon(t), gray(0))
		if strings.HasPrefix(address, "uds:") { // which has no packet for errors
			if !errors.Is(err, shm.ErrServerGone) {
				t.Errorf("%s: %v", address, err)
			}
		} else if !errors.Is(err, shm.ErrModel) || !strings.Contains(err.Error(), "a black picture") {
			t.Errorf("%s: %v", address, err)
		}
		if label, err := client.Classify(soon(t), gray(255)); err != nil || label != "bright" {
			t.Errorf("%s: %q, %v", address, label, err)
		}
	}
}

func TestAnAddressThatLeadsNowhereIsAnErrorAndNoClient(t *testing.T) {
	folder := t.TempDir()
	for _, address := range []string{"shm:" + folder + "/x", "uds:" + folder + "/x", "http://127.0.0.1:1", "grpc:/x", "/tmp/x", ""} {
		client, err := transport.Dial(soon(t), address)
		if err == nil || client != nil {
			t.Errorf("%q: %v, %v", address, client, err)
		}
	}
}
