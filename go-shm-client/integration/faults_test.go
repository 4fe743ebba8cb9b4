package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
)

// gated is a server whose model waits, once it has a picture of callMany's, until open is called.
func gated(t *testing.T) (s *server, open func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "gate")
	return start(t, "", "gated", gate), func() {
		t.Helper()
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// waitUntilBusy waits until the model has a picture, and the server n requests of client.
func (s *server) waitUntilBusy(client *shm.Client, n uint64) {
	s.t.Helper()
	s.waitFor("in the model")
	eventually(s.t, "the calls are sent", func() bool { return client.Stats().Requests == n })
}

// callMany makes n classifications at once and returns their errors once all have returned.
func callMany(ctx context.Context, client *shm.Client, n int) func() []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range errs {
		all.Add(1)
		go func() {
			defer all.Done()
			_, errs[i] = client.Classify(ctx, append([]byte("gate"), gray(byte(i))[4:]...))
		}()
	}
	return func() []error { all.Wait(); return errs }
}

func TestAKilledServerFailsEveryCallInFlightAndTheClientReconnects(t *testing.T) {
	first, _ := gated(t)
	client := dial(t, first, slots(8))
	wait := callMany(soon(t), client, 40) // 8 in flight, 32 waiting for a slot
	first.waitUntilBusy(client, 8)
	first.signal(syscall.SIGKILL)
	sent := 0
	for i, err := range wait() {
		if !errors.Is(err, shm.ErrServerGone) {
			t.Errorf("call %d: %v, want ErrServerGone", i, err)
		}
		if !errors.Is(err, shm.ErrNotRun) {
			sent++
		}
	}
	if sent != 8 {
		t.Errorf("%d calls say that they may have run, 8 were sent", sent)
	}
	if _, err := client.Classify(soon(t), gray(1)); !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("while disconnected: %v, want ErrServerGone at once", err)
	}
	start(t, first.path, "brightness")
	if err := client.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	result, err := client.Classify(soon(t), gray(255))
	if err != nil || result.Label != "bright" {
		t.Fatalf("after reconnecting: %+v, %v", result, err)
	}
	if client.Stats().Reconnects != 1 {
		t.Errorf("%d reconnects, want 1", client.Stats().Reconnects)
	}
}

func TestAServerKilledWhileItIsEchoingAtFullSpeedLosesNoCallSilently(t *testing.T) {
	s := start(t, "", "brightness")
	client := dial(t, s, slots(4))
	var all sync.WaitGroup
	for g := range 32 {
		all.Add(1)
		go func() {
			defer all.Done()
			pixels := gray(byte(g))
			for {
				echo, err := client.Echo(soon(t), pixels)
				if errors.Is(err, shm.ErrServerGone) {
					return
				}
				if err != nil || echo.Checksum != shm.Checksum(pixels) {
					t.Errorf("echo before the kill: %+v, %v", echo, err)
					return
				}
			}
		}()
	}
	eventually(t, "it is at full speed", func() bool { return client.Stats().Requests > 5000 })
	s.signal(syscall.SIGKILL)
	all.Wait()
}

func TestSIGTERMAnswersWhatIsInFlightAndRefusesTheRest(t *testing.T) {
	s, open := gated(t)
	client := dial(t, s, slots(4))
	wait := callMany(soon(t), client, 4)
	s.waitUntilBusy(client, 4)
	_ = s.command.Process.Signal(syscall.SIGTERM)
	open()
	<-s.ended
	for i, err := range wait() {
		if err != nil {
			t.Errorf("call %d in flight: %v, want an answer", i, err)
		}
	}
	if _, err := client.Classify(soon(t), gray(0)); !errors.Is(err, shm.ErrDraining) && !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("afterwards: %v, want ErrDraining or, once it knows that nobody is there, ErrServerGone", err)
	}
	if code := s.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the server exited with %d:\n%s", code, s.log.String())
	}
}

func TestNewCallsOnADrainingServerGetErrDraining(t *testing.T) {
	s, open := gated(t)
	client := dial(t, s, slots(4))
	wait := callMany(soon(t), client, 1)
	s.waitUntilBusy(client, 1)
	_ = s.command.Process.Signal(syscall.SIGTERM)
	open() // the server drains after the model
	var err error
	for err == nil {
		_, err = client.TryEcho(soon(t), gray(1))
	}
	if !errors.Is(err, shm.ErrDraining) {
		t.Errorf("%v, want ErrDraining", err)
	}
	if errs := wait(); errs[0] != nil {
		t.Errorf("the call in flight: %v", errs[0])
	}
}

func TestCancelledCallsInFlightGiveTheirSlotsBackInTheEnd(t *testing.T) {
	s, open := gated(t)
	client := dial(t, s, slots(4))
	ctx, cancel := context.WithCancel(context.Background())
	wait := callMany(ctx, client, 12)
	s.waitUntilBusy(client, 4)
	cancel()
	for _, err := range wait() {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want a context error", err)
		}
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, shm.ErrRingFull) {
		t.Errorf("while the server works on four: %v, want ErrRingFull", err)
	}
	open()
	var leases []shm.Slot
	for range 4 { // quarantined until the server has completed them, then free
		slot, err := client.ReserveImage(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, slot)
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, shm.ErrRingFull) {
		t.Errorf("a fifth of four slots: %v, want ErrRingFull", err)
	}
	for i, slot := range leases {
		copy(slot.Pixels(), gray(byte(255*(i%2))))
		result, err := slot.Classify(soon(t))
		if err != nil || result.Class != i%2 {
			t.Errorf("lease %d: %+v, %v", i, result, err)
		}
		slot.Release()
	}
}

func TestAModelThatRaisesIsATypedErrorWithItsMessage(t *testing.T) {
	client := dial(t, start(t, "", "raising"))
	_, err := client.Classify(soon(t), gray(0))
	var model *shm.ModelError
	if !errors.Is(err, shm.ErrModel) || !errors.As(err, &model) || !strings.HasPrefix(model.Message, "ValueError: a black picture") {
		t.Errorf("%v, want ErrModel with the message", err)
	}
	if result, err := client.Classify(soon(t), gray(255)); err != nil || result.Label != "bright" {
		t.Errorf("the next one: %+v, %v", result, err)
	}
}

func TestADeadlineThatPassesInTheQueueIsNeverRun(t *testing.T) {
	s, open := gated(t)
	client := dial(t, s)
	wait := callMany(soon(t), client, 1)
	s.waitUntilBusy(client, 1)
	for patience := 10 * time.Millisecond; client.Stats().Requests == 1; patience *= 2 { // until it is sent before it passes
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := client.Classify(ctx, gray(9)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want context.DeadlineExceeded", err)
		}
		cancel()
	}
	open()
	wait()
	if _, err := client.Echo(soon(t), gray(1)); err != nil { // behind it in the ring
		t.Fatal(err)
	}
	s.signal(syscall.SIGTERM)
	if !strings.Contains(s.log.String(), "calls 1,") || !strings.Contains(s.log.String(), "expired 1,") {
		t.Errorf("the model ran for a call that was given up:\n%s", s.log.String())
	}
}

// Without comparing the clocks, the server would find every deadline passed a day ago.
func TestADeadlineHoldsInAnotherTimeNamespace(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	s := startInAnotherTime(t, "gated", gate)
	client := dial(t, s)
	result, err := client.Classify(soon(t), gray(255))
	if err != nil || result.Label != "bright" || result.QueueTime >= time.Hour {
		t.Errorf("%+v, %v", result, err)
	}
	wait := callMany(soon(t), client, 1)
	s.waitUntilBusy(client, 2)
	for patience := 10 * time.Millisecond; client.Stats().Requests == 2; patience *= 2 { // until it is sent before it passes
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := client.Classify(ctx, gray(9)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want context.DeadlineExceeded", err)
		}
		cancel()
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := wait(); errs[0] != nil {
		t.Error(errs[0])
	}
	if _, err := client.Echo(soon(t), gray(1)); err != nil { // behind it in the ring
		t.Fatal(err)
	}
}

func TestACallToNobodySaysWhatIsWrong(t *testing.T) {
	client, err := shm.NewClient(t.TempDir() + "/none")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Classify(soon(t), gray(1)); !errors.Is(err, shm.ErrServerGone) || !strings.Contains(err.Error(), "shm-server serve") {
		t.Errorf("%v, want a hint at what to start", err)
	}
}

func TestAHundredClientsComeAndGoWithoutATrace(t *testing.T) {
	s := start(t, "", "brightness")
	goroutines := runtime.NumGoroutine()
	count := func() [2]int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{len(fds), strings.Count(string(maps), "shm-server-")}
	}
	var before [2]int
	for i := range 101 {
		client, err := shm.NewClient(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Echo(soon(t), gray(byte(i))); err != nil {
			t.Fatal(err)
		}
		client.Close()
		if i == 0 { // what the runtime makes once is there now
			before = count()
		}
	}
	if after := count(); after != before {
		t.Errorf("descriptors, mappings: %v, were %v", after, before)
	}
	// Close waits for what a goroutine does last. The scheduler counts it until it has returned as well.
	eventually(t, "every goroutine has returned", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// A server takes the pages of a client that hangs up back: an answer that was not read by then must not read as zeros.
func TestWhatAClosingClientIsAnsweredIsWhatTheServerSaid(t *testing.T) {
	s := start(t, "", "brightness")
	for range 40 {
		client := dial(t, s, slots(8))
		var all sync.WaitGroup
		answered := make(chan struct{}, 8)
		for range cap(answered) {
			all.Add(1)
			go func() {
				defer all.Done()
				for once := true; ; once = false {
					result, err := client.Classify(soon(t), gray(204), shm.WithScores(nil))
					if err != nil {
						return
					}
					if result.Label != "bright" || len(result.Scores) != 2 || result.Scores[1] != result.Score {
						t.Errorf("%+v", result)
					}
					if once {
						answered <- struct{}{}
					}
				}
			}()
		}
		for range cap(answered) {
			<-answered
		}
		client.Close()
		all.Wait()
	}
}
