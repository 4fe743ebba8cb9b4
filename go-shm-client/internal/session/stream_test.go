package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// prompt submits text in a claimed slot.
func (h *heapLane) prompt(ctx context.Context, t testing.TB, text string) *Stream {
	t.Helper()
	slot, err := h.Claim(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := h.Prompt(ctx, slot, layout.Submission{Extent: uint32(copy(h.Input(0, slot, 1), text)), SamplingSteps: 9})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func (h *heapLane) close(s *Stream) {
	s.Close()
}

func spins() map[string]time.Duration {
	return map[string]time.Duration{"parked": 0, "spinning": time.Second, "forever": SpinForever}
}

func TestTextComesAsItGrows(t *testing.T) {
	for name, spin := range spins() {
		h := newHeapPrompts(t, 2, spin)
		ctx := background(t)
		stream := h.prompt(ctx, t, "hello")
		got := h.take(t)
		if text := h.server.Text(got); text != "hello" || got.SamplingSteps != 9 {
			t.Errorf("%s: submitted %q, %+v", name, text, got)
		}
		for _, piece := range []string{"one ", "two ", "€"} {
			h.server.Append(got, piece)
			if text, final, err := stream.Next(ctx); text != piece || final != nil || err != nil {
				t.Fatalf("%s: %q, %v, %v", name, text, final, err)
			}
		}
		h.server.Append(got, "five ")
		h.server.Append(got, "six")
		h.server.Finish(got, layout.StatusBroken, "it broke")
		var rest string
		for {
			text, final, err := stream.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if rest += text; final != nil {
				if message, err := stream.Message(final); final.Status != layout.StatusBroken || message != "it broke" || err != nil {
					t.Errorf("%s: %+v %q, %v", name, final, message, err)
				}
				break
			}
		}
		if rest != "five six" {
			t.Errorf("%s: then %q", name, rest)
		}
		h.close(stream)
		h.mustBeWhole(t)
	}
}

func TestTextThatSomebodyElseReapedIsFound(t *testing.T) {
	for name, spin := range spins() {
		h := newHeapPrompts(t, 1, spin)
		ctx := background(t)
		stream := h.prompt(ctx, t, "x")
		got := h.take(t)
		for _, piece := range []string{"first", "second"} {
			h.server.Append(got, piece)
			if piece == "second" { // the first Next has the role from before the submission
				h.Bell()
			}
			if text, _, err := stream.Next(ctx); text != piece || err != nil {
				t.Errorf("%s: %q, %v", name, text, err)
			}
		}
		h.server.Finish(got, layout.StatusOK, "")
		h.Bell()
		if _, final, err := stream.Next(ctx); final == nil || err != nil {
			t.Errorf("%s: %v, %v", name, final, err)
		}
		h.close(stream)
		h.mustBeWhole(t)
	}
}

func TestAServerPublishesNoMoreUntilTheLastIsAcknowledged(t *testing.T) {
	h := newHeapPrompts(t, 1, 0)
	ctx := background(t)
	stream := h.prompt(ctx, t, "x")
	got := h.take(t)
	for range 5 {
		h.server.Append(got, "a")
	}
	if text, _, err := stream.Next(ctx); text != "aaaaa" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	h.server.Append(got, "b")
	if text, _, err := stream.Next(ctx); text != "b" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	h.server.Finish(got, layout.StatusOK, "")
	if text, final, err := stream.Next(ctx); text != "" || final == nil || err != nil {
		t.Errorf("%q, %v, %v", text, final, err)
	}
	h.close(stream)
	h.mustBeWhole(t)
}

func TestAPromptThatIsGivenUpIsCancelledAndItsSlotQuarantined(t *testing.T) {
	for name, spin := range spins() {
		for _, pieces := range []int{0, 1, 2} {
			for _, asleep := range []bool{false, true} {
				h := newHeapPrompts(t, 2, spin)
				ctx, cancel := context.WithCancel(background(t))
				stream := h.prompt(ctx, t, "x")
				got := h.take(t)
				for range pieces {
					h.server.Append(got, "text ")
					if _, _, err := stream.Next(ctx); err != nil {
						t.Fatal(err)
					}
				}
				if asleep {
					time.AfterFunc(time.Millisecond, cancel)
					if _, _, err := stream.Next(ctx); !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", name, err)
					}
				}
				stream.Close()
				if !h.server.Cancelled(got) {
					t.Errorf("%s: the server does not know", name)
				}
				h.mustClaim(t)
				if slot, err := h.TryClaim(1); err != fault.RingFull {
					t.Errorf("%s: slot %d was claimed while it is in flight, %v", name, slot, err)
				}
				h.Release(1 - got.Slot)
				h.server.Append(got, "late ")
				h.server.Finish(got, layout.StatusCancelled, "")
				h.mustBeWhole(t)
				cancel()
			}
		}
	}
}

func TestALyingServerEndsTheSession(t *testing.T) {
	for name, lie := range map[string]func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}){
		"more than fits": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Append(got, "x")
			<-read
			s.Extent(got.Slot).Store(fakeserver.ReplyBytes + 1)
			s.Publish(layout.Completion{RequestID: got.RequestID, Slot: got.Slot, Status: layout.StatusMore})
		},
		"less than before": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Append(got, "some text")
			<-read
			s.Extent(got.Slot).Store(2)
			s.Publish(layout.Completion{RequestID: got.RequestID, Slot: got.Slot, Status: layout.StatusMore})
		},
		"half a character": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) { s.Append(got, "\xe2\x82") },
		"a final text that shrank": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Append(got, "some text")
			<-read
			s.Answer(got, layout.Completion{Extent: 2})
		},
		"a final text that does not fit": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Answer(got, layout.Completion{Extent: fakeserver.ReplyBytes + 1})
		},
		"a message that does not fit": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Answer(got, layout.Completion{MessageBytes: layout.MessageBytes + 1})
		},
		"unknown status": func(s *fakeserver.Server, got layout.Submission, read <-chan struct{}) {
			s.Answer(got, layout.Completion{Status: layout.StatusBroken + 1})
		},
	} {
		for _, spin := range spins() {
			h := newHeapPrompts(t, 2, spin)
			ctx := background(t)
			stream := h.prompt(ctx, t, "x")
			lied, read := make(chan struct{}), make(chan struct{})
			go func() {
				lie(h.server, h.take(t), read)
				close(lied)
			}()
			var err error
			for err == nil {
				var text string
				var final *layout.Completion
				if text, final, err = stream.Next(ctx); final != nil && err == nil {
					t.Fatalf("%s: believed", name)
				}
				if text != "" {
					close(read)
				}
			}
			if ctx.Err() != nil {
				t.Errorf("%s: nothing happened", name)
			}
			<-lied // the server's mapping is the client's here: it lasts until the slot is released
			h.close(stream)
			<-h.ended
			if h.unmapped.Load() != 1 {
				t.Errorf("%s: unmapped %d times", name, h.unmapped.Load())
			}
		}
	}
}

func TestMoreOfAnEchoEndsTheSession(t *testing.T) {
	h := newHeapPrompts(t, 1, 0)
	returned := h.call(background(t), h.mustClaim(t))
	got := h.take(t)
	h.server.Publish(layout.Completion{RequestID: got.RequestID, Slot: got.Slot, Status: layout.StatusMore})
	if o := <-returned; o.err == nil || !o.owned {
		t.Errorf("%+v", o)
	}
}

// scribe answers a prompt with the words that its text asks for, at random speed, some of it in another goroutine's time.
type scribe struct {
	random  *rand.Rand
	held    []layout.Submission
	written map[uint32]int
}

// speak makes one step of one held prompt.
func (sc *scribe) speak(s *fakeserver.Server) {
	i := sc.random.IntN(len(sc.held))
	got := sc.held[i]
	words := int(s.Input(0, got.Slot)[0])
	if s.Cancelled(got) {
		s.Finish(got, layout.StatusCancelled, "")
	} else if sc.written[got.Slot] < words {
		s.Append(got, fmt.Sprintf("%d:%d ", s.Input(0, got.Slot)[1], sc.written[got.Slot]))
		sc.written[got.Slot]++
		return
	} else {
		s.Finish(got, layout.StatusOK, "")
	}
	delete(sc.written, got.Slot)
	sc.held = append(sc.held[:i], sc.held[i+1:]...)
}

func (sc *scribe) run(h *heapLane, stop <-chan struct{}) {
	for idle := 0; ; {
		select {
		case <-stop:
			return
		default:
		}
		if got, ok := h.server.Take(); ok {
			sc.held = append(sc.held, got)
			idle = 0
		}
		if len(sc.held) > 0 {
			sc.speak(h.server)
			if sc.random.IntN(16) == 0 {
				time.Sleep(time.Duration(sc.random.IntN(100)) * time.Microsecond)
			}
			continue
		}
		if idle++; idle < 20 || !h.server.Park() {
			continue
		}
		select {
		case <-h.serverBells:
		case <-stop:
			return
		}
		h.server.Unpark()
	}
}

// reader makes prompts until stop, counts them, checks every word of the answers, and gives some of them up at any point.
func reader(h *heapLane, number byte, seed uint64, stop <-chan struct{}, made *atomic.Int64) error {
	random := rand.New(rand.NewPCG(seed, uint64(number)))
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if random.IntN(4) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(500))*time.Microsecond)
		}
		if err := readOne(ctx, h, number, random); err != nil {
			cancel()
			return err
		}
		cancel()
		made.Add(1)
	}
}

func readOne(ctx context.Context, h *heapLane, number byte, random *rand.Rand) error {
	slot, err := h.Claim(context.Background(), 1)
	if err != nil {
		return ignoreEnd(err)
	}
	words, leaveAt := random.IntN(40), -1
	if random.IntN(4) == 0 {
		leaveAt = random.IntN(3)
	}
	h.Input(0, slot, 1)[0], h.Input(0, slot, 1)[1] = byte(words), number
	stream, err := h.Prompt(ctx, slot, layout.Submission{Extent: 2})
	if err != nil {
		h.Release(slot)
		return ignoreEnd(err)
	}
	defer h.close(stream)
	var text, want strings.Builder
	for w := range words {
		fmt.Fprintf(&want, "%d:%d ", number, w)
	}
	for nexts := 0; nexts != leaveAt; nexts++ {
		piece, final, err := stream.Next(ctx)
		if err != nil {
			return ignoreEnd(err)
		}
		if text.WriteString(piece); !strings.HasPrefix(want.String(), text.String()) {
			return fmt.Errorf("prompt of %d words got %q", words, text.String())
		}
		if final != nil {
			if final.Status == layout.StatusOK && text.Len() != want.Len() {
				return fmt.Errorf("prompt of %d words ended with %q", words, text.String())
			}
			return nil
		}
		if random.IntN(8) == 0 {
			time.Sleep(time.Duration(random.IntN(50)) * time.Microsecond)
		}
	}
	return nil
}

func ignoreEnd(err error) error {
	if errors.Is(err, errEnded) || errors.Is(err, fault.DeadlineExceeded) {
		return nil
	}
	return err
}

func TestManyStreamsOnFewSlotsGetEveryWordOnce(t *testing.T) {
	seed := seeded(t)
	for _, kill := range []bool{false, true} {
		for _, slots := range []uint32{1, 4, 16} {
			for _, spin := range []time.Duration{0, 20 * time.Microsecond, SpinForever} {
				h := newHeapPrompts(t, slots, spin)
				stopServer, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					sc := &scribe{random: rand.New(rand.NewPCG(seed, uint64(slots))), written: map[uint32]int{}}
					sc.run(h, stopServer)
				}()
				h.stopServer = sync.OnceFunc(func() { close(stopServer); <-stopped })
				stop := make(chan struct{})
				var made atomic.Int64
				var all sync.WaitGroup
				for i := range 30 {
					all.Add(1)
					go func() {
						defer all.Done()
						if err := reader(h, byte(i), seed, stop, &made); err != nil {
							t.Error(err)
						}
					}()
				}
				until(t, "prompts are made", func() bool { return made.Load() > stressPrompts })
				if kill {
					h.kill()
				}
				close(stop)
				all.Wait()
				if kill {
					<-h.ended
					if h.unmapped.Load() != 1 {
						t.Errorf("unmapped %d times", h.unmapped.Load())
					}
				} else {
					h.mustBeWhole(t)
				}
			}
		}
	}
}

// A "more" that woke nobody is made good by the next one, or the final completion. Here each word is only said once the last
// one was read, so that a lost one is a call that never returns. With two readers, each reaps what is the other's.
func TestReadersAreAlwaysWoken(t *testing.T) {
	seed := seeded(t)
	for _, spin := range []time.Duration{0, 2 * time.Microsecond, SpinForever} {
		for _, readers := range []uint32{1, 2, 3} {
			h := newHeapPrompts(t, readers, spin)
			ctx := background(t)
			read := make([]atomic.Int64, readers) // words that each reader has read of its prompt
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				h.converse(rand.New(rand.NewPCG(seed, uint64(readers))), read, stop)
			}()
			var all sync.WaitGroup
			for i := range readers {
				all.Add(1)
				go func() {
					defer all.Done()
					random := rand.New(rand.NewPCG(seed, uint64(i)))
					for range 4 {
						stream := h.prompt(ctx, t, "x")
						for {
							_, final, err := stream.Next(ctx)
							if err != nil {
								t.Error(err)
							}
							if final != nil || err != nil {
								break
							}
							read[stream.slot].Add(1)
							if random.IntN(4) == 0 { // somebody else reaps the next one meanwhile
								time.Sleep(time.Duration(random.IntN(100)) * time.Microsecond)
							}
						}
						h.close(stream)
					}
				}()
			}
			all.Wait()
			close(stop)
			<-stopped
			h.mustBeWhole(t)
		}
	}
}

// converse is a server that says the next of 100 words when the last one was read.
func (h *heapLane) converse(random *rand.Rand, read []atomic.Int64, stop <-chan struct{}) {
	prompts, said := make([]*layout.Submission, len(read)), make([]int64, len(read))
	for {
		select {
		case <-stop:
			return
		default:
		}
		if got, ok := h.server.Take(); ok {
			read[got.Slot].Store(0)
			prompts[got.Slot], said[got.Slot] = &got, 0
		}
		for slot, got := range prompts {
			switch {
			case got == nil || read[slot].Load() < said[slot]:
			case said[slot] == 100:
				prompts[slot] = nil
				h.server.Finish(*got, layout.StatusOK, "")
			default:
				said[slot]++
				h.server.Append(*got, "word ")
			}
		}
		if random.IntN(1000) == 0 {
			time.Sleep(20 * time.Microsecond)
		}
	}
}

func TestWhatIsCopiedAfterHangingUpIsNoAnswer(t *testing.T) {
	h := newHeapPrompts(t, 1, 0)
	ctx := background(t)
	stream := h.prompt(ctx, t, "hello")
	got := h.take(t)
	h.server.Append(got, "one ")
	if text, _, err := stream.Next(ctx); text != "one " || err != nil || h.Intact() != nil {
		t.Fatalf("%q, %v, %v", text, err, h.Intact())
	}
	h.server.Append(got, "two")
	h.server.Finish(got, layout.StatusOK, "")
	h.left.Store(true)
	clear(h.server.Output(0, got.Slot)) // as the server's giving back does
	h.fail(errEnded)
	if text, final, err := stream.Next(ctx); text != "" || !errors.Is(err, errEnded) {
		t.Errorf("%q, %+v, %v", text, final, err)
	}
	h.close(stream)
}
