//go:build linux

package shm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// move ends a session because another process has its model from now on.
func move(s *fakeserver.Session) { s.Goodbye(layout.ReasonMoved, "version 8 is up") }

// moveAndWait has the last session move, and waits until the client knows; it is the one that l has.
func moveAndWait(t *testing.T, f *fake, l *link) {
	t.Helper()
	conn := l.current.Load()
	move(f.Last())
	eventually(t, "the client has noticed", func() bool { return l.current.Load() != conn })
}

// moving is a fake whose hellos are not answered until open is called, once its last session has moved, and a client of it that
// knows that it has.
func moving(t *testing.T) (f *fake, client *Client, open func()) {
	t.Helper()
	f = withModels(t, &double)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		if got.Op == layout.OpEcho {
			s.Echo(got)
			return
		}
		s.Append(got, "one ")
		s.Finish(got, layout.StatusOK, "")
	}
	client = dialFake(t, f)
	gate := make(chan struct{})
	open = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open) // before the fake is closed
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(string) *doorbell.RefusedError { <-gate; return nil }
	})
	moveAndWait(t, f, client.images.made.Load())
	return f, client, open
}

func TestCallsWaitWhileTheirModelMoves(t *testing.T) {
	_, client, open := moving(t)
	if _, err := client.TryClassify(soon(t), gray(1)); !errors.Is(err, ErrRingFull) {
		t.Errorf("TryClassify: %v", err)
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, ErrRingFull) {
		t.Errorf("TryReserveImage: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	given := make(chan error)
	go func() { _, err := client.Classify(ctx, gray(1)); given <- err }()
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotRun) {
		t.Errorf("given up: %v", err)
	}
	returned, waiting := make(chan error), 0
	for name, call := range calls(client) {
		if strings.HasPrefix(name, "Try") {
			continue
		}
		waiting++
		go func() {
			if err := call(soon(t)); err != nil {
				returned <- fmt.Errorf("%s: %w", name, err)
			}
			returned <- nil
		}()
	}
	open()
	for range waiting {
		if err := <-returned; err != nil {
			t.Error(err)
		}
	}
	if n := client.Stats().Reconnects; n != 1 {
		t.Errorf("%d reconnects", n)
	}
}

func TestClosingWhileAModelMovesEndsTheCallsThatWait(t *testing.T) {
	_, client, open := moving(t)
	waiting := make(chan error)
	go func() { _, err := client.Classify(soon(t), gray(1)); waiting <- err }()
	client.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotRun) {
		t.Error(err)
	}
	open()
}

func TestACallThatAMovingModelDidNotTakeIsMadeAgain(t *testing.T) {
	for name, spin := range spins() {
		f := startFake(t, 4)
		client := dialFake(t, f, Options{Spin: spin})
		f.paused.Store(true)
		call := inFlight(t, f, func() error {
			result, err := client.Classify(soon(t), gray(200))
			if err == nil && result.Label != "bright" {
				err = fmt.Errorf("another's answer: %+v", result)
			}
			return err
		})
		move(f.Last())
		eventually(t, "the client has dialled again", func() bool { return len(f.Sessions()) == 2 })
		f.paused.Store(false)
		if err := <-call; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		client.Close()
	}
}

func TestALeaseOfAModelThatHasMovedIsRunInTheNextSession(t *testing.T) {
	before := mappings(t)
	f := withModels(t, &encoder)
	client := dialFake(t, f)
	model := mustModel(t, client, "encoder")
	slot := mustReserve(t, model)
	if err := slot.SetExtent(2); err != nil {
		t.Fatal(err)
	}
	ids, mask, states := mustView[int32](t, slot, "ids"), mustView[bool](t, slot, "mask"), mustView[float64](t, slot, "states")
	for round := range int32(3) {
		ids[0], ids[1], mask[0], mask[1] = 10*round, 10*round+1, true, true
		moveAndWait(t, f, model.link)
		if err := model.WaitReady(soon(t)); err != nil { // so that the next round moves another session
			t.Fatal(err)
		}
		if err := slot.Run(soon(t)); err != nil {
			t.Fatal(err)
		}
		if want := []float64{float64(10 * round), -float64(10 * round), float64(10*round + 1), -float64(10*round + 1)}; !reflect.DeepEqual(states, want) {
			t.Errorf("round %d: %v, want %v", round, states, want)
		}
		if facts := mustView[bool](t, slot, "facts"); facts[0] || !facts[1] || slot.Timing().Batch != 1 {
			t.Errorf("round %d: %v, %+v", round, facts, slot.Timing())
		}
		if echo, err := slot.Echo(soon(t)); err != nil || echo.Checksum != fakeserver.Checksum(slot.lease.input(0), slot.lease.input(1)) {
			t.Errorf("round %d: %+v, %v", round, echo, err)
		}
	}
	slot.Release()
	client.Close()
	f.Close()
	eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
}

func TestAModelThatMovesToAnotherSignatureIsATypedErrorThatShowsBoth(t *testing.T) {
	half := double
	half.Outputs = []Tensor{{Name: "y", Datatype: "FP32", Shape: []int{2}}}
	f := withModels(t, &double)
	client := dialFake(t, f)
	model := mustModel(t, client, "double")
	slot := mustReserve(t, model)
	f.Change(func(l *fakeserver.Listener) { l.Models = func(string) *fakeserver.Model { return &half } })
	moveAndWait(t, f, model.link)
	err := slot.Run(soon(t))
	var other *SignatureError
	if !errors.As(err, &other) || !errors.Is(err, ErrNotRun) || err.Error() != "the model is "+half.String()+", expected "+double.String() {
		t.Error(err)
	}
	slot.Release()
	if _, err := Call[float32](soon(t), model, make([]float32, 4)); !errors.As(err, &other) {
		t.Error(err)
	}
	if y, err := Call[float32](soon(t), mustModel(t, client, "double"), make([]float32, 4)); err != nil || len(y) != 2 {
		t.Errorf("asked for again: %v, %v", y, err)
	}
}

func TestALeaseThatIsLargerThanTheNextSessionTakesIsATypedError(t *testing.T) {
	f := withModels(t, &encoder)
	client := dialFake(t, f)
	model := mustModel(t, client, "encoder")
	slot := mustReserve(t, model)
	defer slot.Release()
	smaller := encoder
	smaller.Bound = 3
	f.Change(func(l *fakeserver.Listener) { l.Models = func(string) *fakeserver.Model { return &smaller } })
	moveAndWait(t, f, model.link)
	var other *SignatureError
	if err := slot.Run(soon(t)); !errors.As(err, &other) || !errors.Is(err, ErrNotRun) || !strings.HasSuffix(err.Error(), "with an extent of 8") {
		t.Error(err)
	}
	if err := slot.SetExtent(3); err != nil {
		t.Error(err)
	}
	if err := slot.Run(soon(t)); err != nil {
		t.Errorf("one that fits: %v", err)
	}
}

func TestAModelThatMovedToNobodyIsGone(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Release()
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(string) *doorbell.RefusedError {
			return &doorbell.RefusedError{Reason: layout.ReasonInternal, Message: "no"}
		}
	})
	moveAndWait(t, f, client.images.made.Load())
	if _, err := client.Classify(soon(t), gray(1)); !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) {
		t.Error(err)
	}
	if _, err := slot.Echo(soon(t)); !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) {
		t.Error(err)
	}
}

// While one server takes over from another, the old one may be who answers.
func TestAHelloOrAQuestionThatTheOldServerAnswersIsSentAgain(t *testing.T) {
	f := startFake(t, 4)
	refused := fakeserver.ReasonMessage(layout.FrameKindRefusal, layout.ReasonMoved, "another serves from now on")
	var hellos, questions atomic.Int32
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(string) *doorbell.RefusedError {
			if hellos.Add(1)%3 != 0 {
				return &doorbell.RefusedError{Reason: layout.ReasonMoved}
			}
			return nil
		}
		l.Asked = func(question string) []byte {
			if questions.Add(1)%3 != 0 {
				return refused
			}
			return ready(question)
		}
	})
	client := clientOf(t, f.Path)
	if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
		t.Errorf("the first call: %+v, %v", result, err)
	}
	if models, err := client.Models(soon(t)); err != nil || len(models) != 1 {
		t.Errorf("%+v, %v", models, err)
	}
	moveAndWait(t, f, client.images.made.Load())
	if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
		t.Errorf("after a move: %+v, %v", result, err)
	}
	if hellos.Load() != 6 || questions.Load() != 3 {
		t.Errorf("%d hellos, %d questions", hellos.Load(), questions.Load())
	}
	f.Change(func(l *fakeserver.Listener) { l.Asked = func(string) []byte { return refused } })
	if _, err := client.Models(soon(t)); !errors.Is(err, ErrServerGone) || !errors.Is(err, ErrNotRun) {
		t.Errorf("of one that never stops: %v", err)
	}
}

func TestCallsOutlastWhatANextServerSaysWhileItIsStarting(t *testing.T) {
	for name, refusal := range map[string]doorbell.RefusedError{
		"starting": {Reason: layout.ReasonStarting}, "draining": {Reason: layout.ReasonDraining}, "moved": {Reason: layout.ReasonMoved},
	} {
		_, client, _ := refusing(t, refusal, 3)
		if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
		if n := client.Stats().Reconnects; n != 1 {
			t.Errorf("%s: %d reconnects", name, n)
		}
	}
}

// refusing is a fake that has moved, refuses the next hellos and then welcomes, and a client of it that knows that it has moved.
func refusing(t *testing.T, refusal doorbell.RefusedError, times int32) (f *fake, client *Client, refused *atomic.Int32) {
	t.Helper()
	f = startFake(t, 4)
	client = dialFake(t, f)
	refused = new(atomic.Int32)
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(string) *doorbell.RefusedError {
			if refused.Add(1) <= times {
				return &refusal
			}
			return nil
		}
	})
	conn := client.images.made.Load().current.Load()
	move(f.Last())
	<-conn.Done()
	return f, client, refused
}

func TestAPromptIsMadeAgainUnlessSomeOfItsTextHasCome(t *testing.T) {
	f := startFake(t, 4)
	said := make(chan struct{}, 1)
	var first atomic.Bool
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		if first.CompareAndSwap(true, false) {
			if s.Text(got) == "silent" {
				said <- struct{}{}
				return
			}
			s.Append(got, "so ")
			return
		}
		s.Append(got, "whole ")
		s.Finish(got, layout.StatusOK, "")
	}
	for name, spin := range spins() {
		promptsOfAModelThatMoves(t, name, f, dialFake(t, f, Options{Spin: spin}), said, &first)
	}
}

func promptsOfAModelThatMoves(t *testing.T, name string, f *fake, client *Client, said <-chan struct{}, first *atomic.Bool) {
	t.Helper()
	defer client.Close()
	if _, err := client.PromptInfo(soon(t), ""); err != nil { // connected, so that the last session is that of prompts
		t.Fatal(err)
	}
	first.Store(true)
	go func() { <-said; move(f.Last()) }()
	if reply, err := client.Prompt(soon(t), "silent"); err != nil || reply.Text != "whole " {
		t.Errorf("%s: %+v, %v", name, reply, err)
	}
	first.Store(true)
	var text strings.Builder
	var failure error
	for piece, err := range client.Stream(soon(t), "speaks") {
		if text.WriteString(piece.Text); piece.Text != "" {
			move(f.Last())
		}
		failure = err
	}
	if text.String() != "so " || !errors.Is(failure, ErrServerGone) || errors.Is(failure, ErrNotRun) {
		t.Errorf("%s: %q, %v", name, text.String(), failure)
	}
}

// Models move again and again under load. No call fails, and each has its own answer.
func TestNoCallFailsHoweverOftenItsModelMoves(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": DefaultSpin, "forever": SpinForever} {
		before := mappings(t)
		f := withModels(t, &double)
		f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Echo(got) }
		client := dialFake(t, f, Options{Spin: spin, Models: map[string]ModelOptions{"double": {Slots: 64}}}) // sixteen are held
		model := mustModel(t, client, "double")
		var answered atomic.Int64
		stop := make(chan struct{})
		var all sync.WaitGroup
		for g := range 16 {
			all.Add(1)
			go func() {
				defer all.Done()
				random := rand.New(rand.NewPCG(seed, uint64(g)))
				held := mustReserve(t, model)
				defer held.Release()
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := oneThatMoves(client, model, held, random); err != nil {
						t.Errorf("%s, goroutine %d: %v", name, g, err)
						return
					}
					answered.Add(1)
				}
			}()
		}
		random := rand.New(rand.NewPCG(seed, 99))
		for range 20 {
			had := answered.Load()
			eventually(t, "calls are answered", func() bool { return answered.Load() > had+100 || t.Failed() })
			sessions := f.Sessions()
			move(sessions[len(sessions)-1-random.IntN(min(3, len(sessions)))])
		}
		close(stop)
		all.Wait()
		t.Logf("%s: %d answered in %d sessions", name, answered.Load(), len(f.Sessions()))
		client.Close()
		f.Close()
		eventually(t, "every mapping is gone", func() bool { return mappings(t) <= before })
	}
}

// oneClassification is an error, too, for pixels that are bright and an answer that is another's.
func oneClassification(ctx context.Context, client *Client, pixels []byte) error {
	result, err := client.Classify(ctx, pixels, WithScores(nil))
	if err == nil && result.Label != "bright" {
		return fmt.Errorf("another's answer: %+v", result)
	}
	return err
}

func oneEcho(ctx context.Context, client *Client, pixels []byte) error {
	echo, err := client.Echo(ctx, pixels)
	if err == nil && echo.Checksum != Checksum(pixels) {
		return errors.New("another's echo")
	}
	return err
}

// oneThatMoves makes one call of any kind. held is this goroutine's for good, whatever sessions come and go.
func oneThatMoves(client *Client, model *Model, held Slot, random *rand.Rand) error {
	number := random.Float32()
	wants := func(y []float32) error {
		if len(y) != 4 || y[0] != 2*number {
			return fmt.Errorf("twice %v is %v", number, y)
		}
		return nil
	}
	ctx := context.Background()
	switch pixels := gray(200); random.IntN(7) {
	case 0:
		return oneClassification(ctx, client, pixels)
	case 1:
		return oneEcho(ctx, client, pixels)
	case 2:
		y, err := Call[float32](ctx, model, []float32{number, 0, 0, 0})
		if err != nil {
			return err
		}
		return wants(y)
	case 6:
		return oneBatchThatMoves(ctx, model, number)
	case 3:
		text, err := client.EchoPrompt(ctx, "to be")
		if err == nil && text != "to be" {
			return fmt.Errorf("another's text: %q", text)
		}
		return err
	default:
		x, err := View[float32](held, "x")
		if err != nil {
			return err
		}
		x[0] = number
		runtime.Gosched() // a session may move meanwhile
		if err := held.Run(ctx); err != nil {
			return err
		}
		y, err := View[float32](held, "y")
		if err != nil {
			return err
		}
		return wants(y)
	}
}

func oneBatchThatMoves(ctx context.Context, model *Model, number float32) error {
	batch, err := model.ReserveBatch(ctx, 5)
	if err != nil {
		return err
	}
	defer batch.Release()
	x, err := ViewBatch[float32](batch, "x")
	if err != nil {
		return err
	}
	for i := range x.Len() {
		x.Row(i)[0] = number + float32(i)
	}
	runtime.Gosched()
	if err := batch.Run(ctx); err != nil {
		return err
	}
	y, err := ViewBatch[float32](batch, "y")
	if err != nil {
		return err
	}
	for i := range y.Len() {
		if y.Row(i)[0] != 2*(number+float32(i)) {
			return fmt.Errorf("row %d: twice %v is %v", i, number+float32(i), y.Row(i)[0])
		}
	}
	return nil
}
