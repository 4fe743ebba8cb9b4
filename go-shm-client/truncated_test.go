//go:build linux && !race

// Under the race detector an atomic access happens in C code, where a fault ends the program.

package shm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// A server that truncates its segment takes its clients' memory from under their feet. Each step below is a place where the client
// touches it, and at each the call is to fail with ErrServerGone, and the next connection to work.

// truncating is a fake whose sessions are silent once their memory is gone, and a client of it.
func truncating(t *testing.T, spin time.Duration) (*fake, *Client) {
	t.Helper()
	f := startFake(t, 4)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		s.Append(got, "one ")
		for !s.Cancelled(got) {
			runtime.Gosched()
		}
		s.Finish(got, layout.StatusCancelled, "")
	}
	f.Welcomed = func(s *fakeserver.Session) { s.Silent.Store(true) }
	return f, dialFake(t, f, Options{Spin: spin})
}

// mustRecover checks that the client has nothing left of the session that ended, and goes on with the next.
func mustRecover(t *testing.T, client *Client) {
	t.Helper()
	eventually(t, "a new connection", func() bool { return client.Stats().Reconnects > 0 })
	if err := client.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	if result, err := client.Classify(soon(t), gray(200), WithScores(nil)); err != nil || result.Label != "bright" {
		t.Errorf("on the next connection: %+v, %v", result, err)
	}
}

func mustBeGone(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrServerGone) || errors.Is(err, ErrProtocol) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v", what, err)
	}
}

func TestASegmentThatIsTruncatedBeforeACallFailsItWhereverItEnds(t *testing.T) {
	before := mappings(t)
	g := fakeserver.Images(4)
	for name, spin := range spins() {
		for cut := int64(0); cut < int64(g.SegmentBytes); cut += layout.PageBytes {
			for call, run := range map[string]func(*Client) error{
				"Classify": func(c *Client) error { _, err := c.Classify(soon(t), gray(1), WithScores(nil)); return err },
				"Model":    func(c *Client) error { _, err := c.Classify(soon(t), gray(13)); return err },
				"TryEcho":  func(c *Client) error { _, err := c.TryEcho(soon(t), gray(1)); return err },
				"Ping":     func(c *Client) error { _, err := c.Ping(soon(t)); return err },
			} {
				f := startFake(t, 4)
				client := dialFake(t, f, Options{Spin: spin})
				f.Last().Truncate(cut)
				err := run(client) // where the page that is gone is one that it does not need, it is answered
				if err != nil && !errors.Is(err, ErrModel) {
					mustBeGone(t, fmt.Sprintf("%s, %s, cut to %d bytes", name, call, cut), err)
				} else if cut < layout.HeaderBytes {
					t.Errorf("%s, %s, cut to %d bytes: %v", name, call, cut, err)
				}
				client.Close()
				f.Close()
			}
		}
	}
	eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
}

func TestACallThatWasNotPublishedSaysSoWhenTheMemoryIsGone(t *testing.T) {
	for name, spin := range spins() {
		for _, cut := range []int64{0, layout.HeaderBytes} { // no header, no submission ring
			f, client := truncating(t, spin)
			f.Last().Truncate(cut)
			_, err := client.Echo(soon(t), gray(1))
			mustBeGone(t, name, err)
			if !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "was truncated") {
				t.Errorf("%s: %v", name, err)
			}
			mustRecover(t, client)
			client.Close()
		}
	}
}

func TestASegmentThatIsTruncatedUnderACallFailsIt(t *testing.T) {
	for name, spin := range spins() {
		for end, notice := range map[string]func(*fakeserver.Session){
			"a bell": (*fakeserver.Session).Bell,
			"death":  (*fakeserver.Session).Kill,
		} {
			before := mappings(t)
			f, client := truncating(t, spin)
			f.paused.Store(true)
			var calls []<-chan error
			for range 3 { // one may poll, the others sleep
				calls = append(calls, inFlight(t, f, func() error { _, err := client.Classify(context.Background(), gray(1)); return err }))
			}
			if spin == NoSpin {
				eventually(t, "they sleep", func() bool { return client.Stats().Parks == 3 })
			}
			f.Last().Truncate(0)
			if spin == NoSpin { // whoever polls notices by itself
				notice(f.Last())
			}
			for _, call := range calls {
				err := <-call
				mustBeGone(t, name+", "+end, err)
				if errors.Is(err, ErrNotRun) {
					t.Errorf("%s, %s: it was in flight, %v", name, end, err)
				}
			}
			f.paused.Store(false)
			mustRecover(t, client)
			client.Close()
			f.Close()
			eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
		}
	}
}

func TestACallOnMemoryThatIsGoneEndsWithItsContextAndItsClient(t *testing.T) {
	f, client := truncating(t, NoSpin)
	f.paused.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	given := inFlight(t, f, func() error { _, err := client.Echo(ctx, gray(1)); return err })
	held := inFlight(t, f, func() error { _, err := client.Echo(context.Background(), gray(1)); return err })
	eventually(t, "they sleep", func() bool { return client.Stats().Parks == 2 })
	f.Last().Truncate(0)
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	client.Close()
	if err := <-held; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestASegmentThatIsTruncatedUnderAStreamFailsItAfterTheTextSoFar(t *testing.T) {
	for name, spin := range spins() {
		f, client := truncating(t, spin)
		var text strings.Builder
		var failure error
		for piece, err := range client.Stream(context.Background(), "x") {
			failure = err
			if text.WriteString(piece.Text); piece.Text != "" {
				f.Last().Truncate(0)
				f.Last().Bell()
			}
		}
		mustBeGone(t, name, failure)
		if text.String() != "one " || errors.Is(failure, ErrNotRun) {
			t.Errorf("%s: %q, %v", name, text.String(), failure)
		}
		for range client.Stream(soon(t), "x") { // the next connection; leaving it writes to memory that is gone
			f.Last().Truncate(0)
			break
		}
		eventually(t, "a prompt is begun again", func() bool {
			for piece := range client.Stream(soon(t), "x") {
				return piece.Text == "one "
			}
			return false
		})
		client.Close()
	}
}

func TestAStreamWhoseControlsAreGoneFails(t *testing.T) {
	lane := fakeserver.Prompts(4).Lane
	for name, spin := range spins() {
		f := startFake(t, 4)
		f.Prompts = func(s *fakeserver.Server, got layout.Submission) { // no Append: it would touch them
			f.Last().Truncate(int64(lane.ControlsOffset))
			s.Publish(layout.Completion{RequestID: got.RequestID, Slot: got.Slot, Status: layout.StatusMore})
		}
		client := dialFake(t, f, Options{Spin: spin})
		_, err := client.Prompt(context.Background(), "x")
		mustBeGone(t, name, err)
	}
}

func TestALeaseOnMemoryThatIsGone(t *testing.T) {
	before := mappings(t)
	f, client := truncating(t, NoSpin)
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := slot.Fill(func(pixels []byte) { copy(pixels, gray(200)) }); err != nil {
		t.Fatal(err)
	}
	if result, err := slot.Classify(soon(t)); err != nil || result.Label != "bright" {
		t.Errorf("%+v, %v", result, err)
	}
	f.Last().Truncate(0)
	cleaned := false
	err = slot.Fill(func(pixels []byte) {
		defer func() { cleaned = true }()
		pixels[0] = 1
	})
	mustBeGone(t, "Fill", err)
	if !cleaned {
		t.Error("a deferred function did not run")
	}
	_, err = slot.Echo(soon(t))
	mustBeGone(t, "Slot.Echo", err)
	mustRecover(t, client)
	slot.Release()
	if err := slot.Fill(func([]byte) { t.Error("called") }); !errors.Is(err, ErrSlotReleased) {
		t.Error(err)
	}
	client.Close()
	f.Close()
	eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
}

func TestASegmentThatIsTruncatedWhileItIsMappedIsAnError(t *testing.T) {
	f := startFake(t, 4)
	f.Welcomed = func(s *fakeserver.Session) { s.Truncate(0) }
	for range 50 { // before the client looks at its size, between that and the mapping, or after
		client := clientOf(t, f.Path)
		_, err := client.Echo(soon(t), gray(1))
		client.Close()
		if !errors.Is(err, ErrServerGone) && !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
	}
}

// A fault in the caller's own memory is the caller's, and takes no slot with it.
func TestAFaultElsewhereIsStillAPanic(t *testing.T) {
	client := dialFake(t, startFake(t, 1))
	file, err := os.CreateTemp(t.TempDir(), "pixels")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(PixelBytes); err != nil {
		t.Fatal(err)
	}
	pixels, err := syscall.Mmap(int(file.Fd()), 0, PixelBytes, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(pixels)
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		func() {
			defer func() {
				fault, ok := recover().(interface{ Addr() uintptr })
				if !ok {
					t.Error("no panic")
				} else if _, mine := machine.Offset(pixels, fault.Addr()); !mine {
					t.Errorf("a panic about %#x", fault.Addr())
				}
			}()
			client.Echo(soon(t), pixels)
		}()
		if debug.SetPanicOnFault(false) {
			t.Error("the goroutine's setting was changed")
		}
	}
	if _, err := client.Echo(soon(t), gray(1)); err != nil {
		t.Error(err)
	}
	func() {
		defer func() { recover() }()
		slot, err := client.ReserveImage(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		defer slot.Release()
		_ = slot.Fill(func([]byte) { panic("mine") })
		t.Error("a panic of the caller's was swallowed")
	}()
	if _, err := client.TryEcho(soon(t), gray(1)); err != nil {
		t.Error(err)
	}
}

func TestManyGoroutinesOutliveServersThatTruncate(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	g := fakeserver.Images(4)
	before := mappings(t)
	for _, spin := range []time.Duration{NoSpin, DefaultSpin, SpinForever} {
		f := startFake(t, 4)
		f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
			s.Append(got, "one ")
			s.Finish(got, layout.StatusOK, "")
		}
		client := dialFake(t, f, Options{Spin: spin})
		var answered, gone atomic.Int64
		stop := make(chan struct{})
		var all sync.WaitGroup
		for g := range 24 {
			all.Add(1)
			go func() {
				defer all.Done()
				random := rand.New(rand.NewPCG(seed, uint64(g)+1))
				for {
					select {
					case <-stop:
						return
					default:
					}
					switch err := oneCall(client, random); {
					case err == nil:
						answered.Add(1)
					case errors.Is(err, ErrServerGone), errors.Is(err, ErrSlotReleased):
						gone.Add(1)
						runtime.Gosched()
					case errors.Is(err, context.Canceled):
					default:
						t.Errorf("goroutine %d: %v", g, err)
						return
					}
				}
			}()
		}
		for range 15 {
			had := answered.Load()
			eventually(t, "calls are answered", func() bool { return answered.Load() > had+50 })
			sessions := f.Sessions()
			victim := sessions[len(sessions)-1-random.IntN(min(2, len(sessions)))] // images, or prompts
			victim.Truncate(random.Int64N(int64(g.SegmentBytes)) &^ (layout.PageBytes - 1))
			if random.IntN(2) == 0 {
				victim.Kill()
			}
		}
		close(stop)
		all.Wait()
		t.Logf("spin %v: %d answered, %d gone, %d sessions", spin, answered.Load(), gone.Load(), len(f.Sessions()))
		client.Close()
		f.Close()
	}
	eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
}

// oneCall makes one call of any kind, and gives some up.
func oneCall(client *Client, random *rand.Rand) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if random.IntN(8) == 0 {
		time.AfterFunc(time.Duration(random.IntN(100))*time.Microsecond, cancel)
	}
	switch pixels := gray(200); random.IntN(5) {
	case 0:
		return oneClassification(ctx, client, pixels)
	case 1:
		return oneEcho(ctx, client, pixels)
	case 2:
		slot, err := client.ReserveImage(ctx)
		if err != nil {
			return err
		}
		defer slot.Release()
		if err := slot.Fill(func(mine []byte) { copy(mine, pixels) }); err != nil {
			return err
		}
		_, err = slot.Classify(ctx)
		return err
	case 3:
		reply, err := client.Prompt(ctx, "x")
		if err == nil && reply.Text != "one " {
			return fmt.Errorf("another's text: %+v", reply)
		}
		return err
	default:
		for _, err := range client.Stream(ctx, "x") {
			return err
		}
		return nil
	}
}
