//go:build linux

package shm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// fake is a server in this process, behind a real socket and a real mapping.
type fake struct {
	*fakeserver.Listener
	paused atomic.Bool // submissions are taken, but not answered
}

func startFake(t testing.TB, slots uint32) *fake {
	t.Helper()
	return startFakeAt(t, filepath.Join(t.TempDir(), "sock"), slots)
}

// ready answers which models there are: the default one, ready.
func ready(string) []byte {
	return fakeserver.AnswerMessage(ModelInfo{Signature: fakeserver.Brightness.Signature, Protocol: "call", State: "ready"})
}

func startFakeAt(t testing.TB, path string, slots uint32) *fake {
	t.Helper()
	f := &fake{}
	f.Listener = &fakeserver.Listener{
		Path:      path,
		Slots:     slots,
		Behaviour: func() fakeserver.Behaviour { return fakeserver.Behaviour{Paused: &f.paused} },
		Asked:     ready,
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// dialFake is a client that is connected to the default model of f.
func dialFake(t testing.TB, f *fake, opts ...Options) *Client {
	t.Helper()
	client := clientOf(t, f.Path, opts...)
	mustModel(t, client, "")
	return client
}

// clientOf is a client that has not connected yet.
func clientOf(t testing.TB, path string, opts ...Options) *Client {
	t.Helper()
	client, err := NewClient(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// soon is a context for what should take no time at all.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// gray is a picture of one colour: the fake model finds it bright from 128 on, and fails for 13.
func gray(value byte) []byte {
	pixels := make([]byte, PixelBytes)
	for i := range pixels {
		pixels[i] = value
	}
	return pixels
}

// inFlight starts a call and returns when the server has it.
func inFlight(t testing.TB, f *fake, call func() error) <-chan error {
	t.Helper()
	before := f.Last().Taken.Load()
	returned := make(chan error, 1)
	go func() { returned <- call() }()
	eventually(t, "the call is in flight", func() bool { return f.Last().Taken.Load() > before })
	return returned
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain until ", what)
		}
	}
}

func spins() map[string]time.Duration {
	return map[string]time.Duration{"parked": NoSpin, "spinning": SpinForever}
}

func TestAPictureIsClassified(t *testing.T) {
	client := dialFake(t, startFake(t, 4))
	dark, err := client.Classify(soon(t), gray(51))
	if err != nil || dark.Label != "dark" || dark.Class != 0 || dark.Score != 0.8 || dark.Scores != nil || dark.Batch != 1 ||
		dark.QueueTime != time.Microsecond || dark.ModelTime != 2*time.Microsecond {
		t.Errorf("%+v, %v", dark, err)
	}
	bright, err := client.TryClassify(soon(t), gray(204), WithScores(nil))
	if err != nil || bright.Label != "bright" || bright.Class != 1 || len(bright.Scores) != 2 || bright.Scores[1] != 0.8 {
		t.Errorf("%+v, %v", bright, err)
	}
	mine := make([]float32, 10)
	again, err := client.Classify(soon(t), gray(204), WithScores(mine))
	if err != nil || len(again.Scores) != 2 || &again.Scores[0] != &mine[0] {
		t.Errorf("the scores lie elsewhere: %+v, %v", again, err)
	}
	if info, err := client.Info(soon(t)); err != nil || info.Server != "fakeserver" || info.Model != "brightness" || len(info.Classes) != 2 || info.Slots != 4 {
		t.Errorf("%+v", info)
	}
}

func TestAnEchoCarriesTheChecksumOfItsPixels(t *testing.T) {
	client := dialFake(t, startFake(t, 4))
	pixels := gray(7)
	pixels[3071] = 9
	for _, echo := range []func(context.Context, []byte) (EchoResult, error){client.Echo, client.TryEcho} {
		if got, err := echo(soon(t), pixels); err != nil || got.Checksum != fakeserver.Checksum(pixels) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if took, err := client.Ping(soon(t)); err != nil || took <= 0 {
		t.Errorf("ping: %v, %v", took, err)
	}
}

func TestTheChecksumIsTheOneOfTheLayout(t *testing.T) {
	if got := Checksum([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2}); got != 3^4<<32 { // a = 1 + 2, b = 1 + 3
		t.Errorf("%#x", got)
	}
	for size := range 40 {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * 37)
		}
		if got, want := Checksum(b), fakeserver.Checksum(b); got != want {
			t.Errorf("%d bytes: %#x, want %#x", size, got, want)
		}
	}
}

func TestPixelsOfAnotherLengthAreNotSent(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	for _, size := range []int{0, 1, PixelBytes - 1, PixelBytes + 1, 2 * PixelBytes} {
		if _, err := client.Classify(soon(t), make([]byte, size)); !errors.Is(err, ErrPixelCount) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := client.TryEcho(soon(t), make([]byte, size)); !errors.Is(err, ErrPixelCount) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if n := client.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAModelThatFailsIsATypedErrorAndTheNextCallWorks(t *testing.T) {
	client := dialFake(t, startFake(t, 1))
	_, err := client.Classify(soon(t), gray(13))
	var failed *ModelError
	if !errors.Is(err, ErrModel) || !errors.As(err, &failed) || failed.Message != "thirteen is unlucky" {
		t.Error(err)
	}
	if _, err := client.Classify(soon(t), gray(14)); err != nil {
		t.Error(err)
	}
}

func TestAFullRingIsWaitedForOrReported(t *testing.T) {
	f := startFake(t, 2)
	client := dialFake(t, f)
	f.paused.Store(true)
	first := inFlight(t, f, func() error { _, err := client.Classify(soon(t), gray(1)); return err })
	second := inFlight(t, f, func() error { _, err := client.Echo(soon(t), gray(2)); return err })
	if _, err := client.TryClassify(soon(t), gray(3)); !errors.Is(err, ErrRingFull) {
		t.Errorf("TryClassify: %v", err)
	}
	if _, err := client.TryEcho(soon(t), gray(3)); !errors.Is(err, ErrRingFull) {
		t.Errorf("TryEcho: %v", err)
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, ErrRingFull) {
		t.Errorf("TryReserveImage: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := client.Classify(ctx, gray(4)); !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) ||
		!errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Classify until a deadline: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { _, err := client.Classify(soon(t), gray(5)); waiting <- err }()
	f.paused.Store(false)
	for _, err := range []error{<-first, <-second, <-waiting} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestARefusalIsTyped(t *testing.T) {
	f := startFake(t, 4)
	f.Refuse = func(string) *doorbell.RefusedError {
		return &doorbell.RefusedError{Reason: layout.ReasonVersion, Message: "layout major 1, this server speaks 2"}
	}
	_, err := clientOf(t, f.Path).Classify(soon(t), gray(1))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != layout.ReasonVersion || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "refused: layout major 1, this server speaks 2") {
		t.Error(err)
	}
}

func TestTheHotPathAllocatesNothing(t *testing.T) {
	f := startFake(t, 4)
	f.Behaviour = func() fakeserver.Behaviour { // the fake's own checksum allocates
		return fakeserver.Behaviour{Answer: func(s *fakeserver.Server, got layout.Submission) {
			s.Answer(got, layout.Completion{})
		}}
	}
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": DefaultSpin} {
		client := dialFake(t, f, Options{Spin: spin})
		ctx, pixels, scores := context.Background(), gray(1), make([]float32, 2)
		slot, err := client.ReserveImage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for call, run := range map[string]func() error{
			"Classify":             func() error { _, err := client.Classify(ctx, pixels); return err },
			"Classify with scores": func() error { _, err := client.Classify(ctx, pixels, WithScores(scores)); return err },
			"TryClassify":          func() error { _, err := client.TryClassify(ctx, pixels); return err },
			"Echo":                 func() error { _, err := client.Echo(ctx, pixels); return err },
			"Slot.Classify":        func() error { _, err := slot.Classify(ctx, WithScores(scores)); return err },
			"Slot.Echo":            func() error { copy(slot.Pixels(), pixels); _, err := slot.Echo(ctx); return err },
			"a lease": func() error {
				slot, err := client.ReserveImage(ctx)
				slot.Release()
				return err
			},
		} {
			if n := testing.AllocsPerRun(50, func() {
				if err := run(); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s, %s: %v allocations", name, call, n)
			}
		}
		slot.Release()
		client.Close()
	}
}

func TestClosingFailsCallsInFlightAndLeaksNothing(t *testing.T) {
	f := startFake(t, 4)
	dialFake(t, f).Close() // what a process opens once, such as the runtime's poller
	goroutines, fds, maps := runtime.NumGoroutine(), openDescriptors(t), mappings(t)
	for range 5 {
		client := dialFake(t, f)
		f.paused.Store(true)
		call := inFlight(t, f, func() error { _, err := client.Classify(soon(t), gray(1)); return err })
		lease, err := client.ReserveImage(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := <-call; !errors.Is(err, ErrClosed) || !errors.Is(err, os.ErrClosed) {
			t.Errorf("in flight: %v", err)
		}
		if _, err := client.Classify(soon(t), gray(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("afterwards: %v", err)
		}
		if err := client.WaitReady(soon(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("WaitReady: %v", err)
		}
		copy(lease.Pixels(), gray(2)) // still mapped
		lease.Release()
		if err := client.Close(); err != nil {
			t.Errorf("twice: %v", err)
		}
		f.paused.Store(false)
	}
	eventually(t, "no goroutine is left over", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "no descriptor is left over", func() bool { return openDescriptors(t) <= fds })
	eventually(t, "no mapping is left over", func() bool { return mappings(t) <= maps })
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

func mappings(t testing.TB) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "fakeserver-")
}
