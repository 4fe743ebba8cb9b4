package integration

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
)

// callMany makes n classifications at once and returns their errors once all have returned.
func callMany(ctx context.Context, client *shm.Client, n int) func() []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range errs {
		all.Add(1)
		go func() {
			defer all.Done()
			_, errs[i] = client.Classify(ctx, gray(byte(i)))
		}()
	}
	return func() []error { all.Wait(); return errs }
}

func TestAKilledServerFailsEveryCallInFlightAndTheClientReconnects(t *testing.T) {
	first := start(t, "", "slow", "30")
	client := dial(t, first, shm.WithSlots(8))
	wait := callMany(soon(t), client, 40) // 8 in flight, 32 waiting for a slot
	time.Sleep(200 * time.Millisecond)
	first.signal(syscall.SIGKILL)
	for i, err := range wait() {
		if !errors.Is(err, shm.ErrServerGone) {
			t.Errorf("call %d: %v, want ErrServerGone", i, err)
		}
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
	client := dial(t, s, shm.WithSlots(4))
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
	time.Sleep(100 * time.Millisecond)
	s.signal(syscall.SIGKILL)
	all.Wait()
}

func TestSIGTERMAnswersWhatIsInFlightAndRefusesTheRest(t *testing.T) {
	s := start(t, "", "slow", "0.3")
	client := dial(t, s, shm.WithSlots(4))
	wait := callMany(soon(t), client, 4)
	time.Sleep(100 * time.Millisecond)
	s.signal(syscall.SIGTERM)
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
	s := start(t, "", "slow", "1")
	client := dial(t, s, shm.WithSlots(4))
	wait := callMany(soon(t), client, 1)
	time.Sleep(200 * time.Millisecond) // the model is busy: the server drains after it
	_ = s.command.Process.Signal(syscall.SIGTERM)
	var err error
	for range 1000 {
		if _, err = client.TryEcho(soon(t), gray(1)); err != nil {
			break
		}
	}
	if !errors.Is(err, shm.ErrDraining) {
		t.Errorf("%v, want ErrDraining", err)
	}
	if errs := wait(); errs[0] != nil {
		t.Errorf("the call in flight: %v", errs[0])
	}
}

func TestCancelledCallsInFlightGiveTheirSlotsBackInTheEnd(t *testing.T) {
	s := start(t, "", "slow", "0.05")
	client := dial(t, s, shm.WithSlots(4))
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		for _, err := range callMany(ctx, client, 12)() {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want a context error", err)
			}
		}
		cancel()
	}
	var leases []shm.Slot
	for range 4 { // quarantined until the server has completed them, then free
		slot, err := client.ReserveImage(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, slot)
	}
	if _, err := client.TryReserveImage(); !errors.Is(err, shm.ErrRingFull) {
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
	s := start(t, "", "slow", "0.3")
	client := dial(t, s)
	wait := callMany(soon(t), client, 1)
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Classify(ctx, gray(9)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want context.DeadlineExceeded", err)
	}
	wait()
	if _, err := client.Echo(soon(t), gray(1)); err != nil { // behind it in the ring
		t.Fatal(err)
	}
	s.signal(syscall.SIGTERM)
	if !strings.Contains(s.log.String(), "classifications 1,") || !strings.Contains(s.log.String(), "expired 1,") {
		t.Errorf("the model ran for a call that was given up:\n%s", s.log.String())
	}
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	if _, err := shm.Dial(soon(t), t.TempDir()+"/none"); err == nil || !strings.Contains(err.Error(), "shm-server serve") {
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
		client, err := shm.Dial(soon(t), s.path)
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
		client := dial(t, s, shm.WithSlots(8))
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
