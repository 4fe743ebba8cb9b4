package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
)

// startPrompts starts a server whose generator does what prompts say (tests/stub_generators.py): one that computes, or
// one that waits for an endpoint.
func startPrompts(t *testing.T, path, engine string) *server {
	t.Helper()
	python := os.Getenv("SHM_PYTHON")
	if python == "" {
		t.Skip("SHM_PYTHON is not set: run `make test-go`")
	}
	if path == "" {
		path = filepath.Join(t.TempDir(), "sock")
	}
	return startCommand(t, path, exec.Command(python, "../../tests/stub_generators.py", path, engine))
}

func eachEngine(t *testing.T, test func(t *testing.T, s *server)) {
	for _, engine := range []string{"computing", "waiting"} {
		t.Run(engine, func(t *testing.T) { test(t, startPrompts(t, "", engine)) })
	}
}

func TestAPromptIsAnswered(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *server) {
		for _, spin := range []time.Duration{shm.NoSpin, shm.DefaultSpin, shm.SpinForever} {
			client := dial(t, s, shm.Options{Spin: spin})
			reply, err := client.Prompt(soon(t), "to be say:ü say:€ say:𝄞", shm.PromptOptions{SamplingSteps: 8})
			if err != nil || reply.Text != "to be ü€𝄞" || reply.Truncated {
				t.Errorf("%+v, %v", reply, err)
			}
			temperature, k, seed := 0.5, 3, uint64(9)
			params := shm.PromptOptions{SamplingSteps: 7, Temperature: &temperature, TopK: &k, Seed: &seed}
			if reply, err = client.Prompt(soon(t), "params", params); reply.Text != "7 0.5 3 9" {
				t.Errorf("%+v, %v", reply, err)
			}
			if reply, err = client.Prompt(soon(t), "params"); reply.Text != "128 None None None" {
				t.Errorf("%+v, %v", reply, err)
			}
			if reply, err = client.Prompt(soon(t), "named", shm.PromptOptions{Model: "stub"}); err != nil || reply.Text != "named " {
				t.Errorf("%+v, %v", reply, err)
			}
			if _, err = client.Prompt(soon(t), "x", shm.PromptOptions{Model: "nobody"}); !errors.Is(err, shm.ErrNoSuchModel) {
				t.Errorf("a model that there is not: %v", err)
			}
			if info, err := client.PromptInfo(soon(t), ""); err != nil || info.Model != "stub" {
				t.Errorf("%+v, %v", info, err)
			}
			client.Close() // there are four sessions
		}
	})
}

func TestTextComesAsItIsGenerated(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *server) {
		client := dial(t, s)
		gates := filepath.Join(t.TempDir(), "seen-") // each piece is generated only once the one before it was seen
		var pieces []string
		for piece, err := range client.Stream(soon(t), "one await:"+gates+"1 two await:"+gates+"2 three") {
			if err != nil {
				t.Fatal(err)
			}
			if piece.Reply == nil {
				pieces = append(pieces, piece.Text)
			}
			if err := os.WriteFile(gates+strconv.Itoa(len(pieces)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(pieces, "|"); got != "one |two |three " {
			t.Errorf("pieces %q", got)
		}
	})
}

func TestEveryByteOfALongStreamComesOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *server) {
		client := dial(t, s, prompts(32, 0, 1<<20))
		var all sync.WaitGroup
		for i := range 24 {
			all.Add(1)
			go func() {
				defer all.Done()
				word := strings.Repeat("€", 1+i%3) + strconv.Itoa(i)
				var text strings.Builder
				for piece, err := range client.Stream(soon(t), "repeat:"+word, shm.PromptOptions{SamplingSteps: 2000}) {
					if err != nil {
						t.Error(err)
					}
					text.WriteString(piece.Text)
					if i%4 == 0 {
						time.Sleep(10 * time.Microsecond) // a slow reader
					}
				}
				if text.String() != strings.Repeat(word, 2000) {
					t.Errorf("%d: %d bytes of text", i, text.Len())
				}
			}()
		}
		all.Wait()
	})
}

func TestLeavingTheLoopCancels(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *server) {
		client := dial(t, s, prompts(2, 0, 1<<20))
		for stopAt := range 20 {
			pieces := 0
			for _, err := range client.Stream(soon(t), "repeat", shm.PromptOptions{SamplingSteps: 1 << 30}) {
				if err != nil {
					t.Fatal(err)
				}
				if pieces++; pieces > stopAt {
					break
				}
			}
		}
		if reply, err := client.Prompt(soon(t), "still here"); err != nil || reply.Text != "still here " {
			t.Errorf("%+v, %v", reply, err)
		}
	})
}

func TestAPromptEndsWithItsContext(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *server) {
		client := dial(t, s, prompts(2, 0, 0))
		for range 8 { // more than there are slots: they come back
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			reply, err := client.Prompt(ctx, "begun "+strings.Repeat("sleep:0.01 ", 1000))
			cancel()
			if !errors.Is(err, shm.ErrDeadlineExceeded) || reply.Text != "begun " && reply.Text != "" {
				t.Errorf("%+v, %v", reply, err)
			}
			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(20*time.Millisecond, cancel)
			if _, err := client.Prompt(ctx, strings.Repeat("sleep:0.01 ", 1000)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := client.Prompt(ctx, "x"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestEachErrorOfAPromptIsTypedAndItsOwn(t *testing.T) {
	kinds := map[string]error{
		"InvalidRequest": shm.ErrInvalidPrompt,
		"Unavailable":    shm.ErrUnavailable,
		"Unauthorized":   shm.ErrUnauthorized,
		"RateLimited":    shm.ErrRateLimited,
		"TimedOut":       shm.ErrTimedOut,
		"Broken":         shm.ErrBroken,
	}
	eachEngine(t, func(t *testing.T, s *server) {
		client := dial(t, s)
		for kind, want := range kinds {
			reply, err := client.Prompt(soon(t), "some text fail:"+kind)
			var failed *shm.PromptError
			if !errors.Is(err, want) || !errors.As(err, &failed) || failed.Message != "it is "+kind || reply.Text != "some text " {
				t.Errorf("%s: %+v, %v", kind, reply, err)
			}
		}
		if _, err := client.Prompt(soon(t), "bug"); !errors.Is(err, shm.ErrModel) || !strings.Contains(err.Error(), "ZeroDivisionError") {
			t.Error(err)
		}
		minus, cold := -1, -1.0
		for name, call := range map[string]func() error{
			"empty":    func() error { _, err := client.Prompt(soon(t), ""); return err },
			"no UTF-8": func() error { _, err := client.Prompt(soon(t), "a\xff"); return err },
			"too long": func() error { _, err := client.Prompt(soon(t), strings.Repeat("x", 1<<20)); return err },
			"minus":    func() error { _, err := client.Prompt(soon(t), "x", shm.PromptOptions{SamplingSteps: -1}); return err },
			"top-k":    func() error { _, err := client.Prompt(soon(t), "x", shm.PromptOptions{TopK: &minus}); return err },
			"cold":     func() error { _, err := client.Prompt(soon(t), "x", shm.PromptOptions{Temperature: &cold}); return err },
		} {
			if err := call(); !errors.Is(err, shm.ErrInvalidPrompt) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if reply, err := client.Prompt(soon(t), "on"); err != nil || reply.Text != "on " {
			t.Errorf("%+v, %v", reply, err)
		}
	})
}

func TestAReplyThatIsFullSaysSo(t *testing.T) {
	client := dial(t, startPrompts(t, "", "computing"), prompts(1, 64, 4096))
	reply, err := client.Prompt(soon(t), "repeat:€", shm.PromptOptions{SamplingSteps: 10_000})
	if err != nil || !reply.Truncated || reply.Text != strings.Repeat("€", 4096/3) {
		t.Errorf("truncated %t, %d bytes, %v", reply.Truncated, len(reply.Text), err)
	}
	var streamed shm.Reply
	for piece, err := range client.Stream(soon(t), "repeat:€", shm.PromptOptions{SamplingSteps: 10_000}) {
		if err != nil {
			t.Error(err)
		}
		if piece.Reply != nil {
			streamed = *piece.Reply
		}
	}
	if !streamed.Truncated || streamed.Text != reply.Text || streamed.ModelTime <= 0 {
		t.Errorf("streamed: truncated %t, %d bytes, %v", streamed.Truncated, len(streamed.Text), streamed.ModelTime)
	}
}

func TestAnEchoOfAPrompt(t *testing.T) {
	client := dial(t, startPrompts(t, "", "computing"))
	for _, size := range []int{0, 1, 200, 16 << 10} {
		text := strings.Repeat("x", size)
		if echo, err := client.EchoPrompt(soon(t), text); err != nil || echo != text {
			t.Errorf("%d bytes: %d came back, %v", size, len(echo), err)
		}
	}
}

func TestAServerThatDiesInMidStreamFailsThatCallAndTheClientReconnects(t *testing.T) {
	first := startPrompts(t, "", "computing")
	client := dial(t, first)
	var text string
	var failure error
	for piece, err := range client.Stream(soon(t), "one two hang") {
		if text += piece.Text; text == "one two " {
			go first.signal(syscall.SIGKILL)
		}
		failure = err
	}
	if !errors.Is(failure, shm.ErrServerGone) {
		t.Errorf("%q, %v", text, failure)
	}
	startPrompts(t, first.path, "computing")
	eventually(t, "prompts are answered again", func() bool {
		reply, err := client.Prompt(soon(t), "back")
		if err != nil && !errors.Is(err, shm.ErrServerGone) {
			t.Fatal(err)
		}
		return err == nil && reply.Text == "back "
	})
}

func TestWithoutItsGeneratorAServerClassifiesOnAndItIsBackByItself(t *testing.T) {
	client := dial(t, startPrompts(t, "", "computing"))
	if _, err := client.Prompt(soon(t), "die"); !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("the prompt: %v", err)
	}
	if _, err := client.Echo(soon(t), gray(1)); err != nil {
		t.Errorf("an echo of pixels: %v", err)
	}
	for ctx := soon(t); ; {
		reply, err := client.Prompt(ctx, "on")
		if err == nil {
			if reply.Text != "on " {
				t.Errorf("the reply is %q", reply.Text)
			}
			return
		}
		if !errors.Is(err, shm.ErrServerGone) {
			t.Fatalf("while there is none: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAServerWithoutPromptsSaysSo(t *testing.T) {
	client := dial(t, start(t, "", "brightness"))
	var refused *shm.RefusedError
	if _, err := client.Prompt(soon(t), "x"); !errors.As(err, &refused) || !errors.Is(err, shm.ErrNoSuchModel) {
		t.Error(err)
	}
}

func TestClosingAClientEndsItsPrompts(t *testing.T) {
	client := dial(t, startPrompts(t, "", "waiting"))
	for piece, err := range client.Stream(soon(t), "begun hang") {
		if piece.Text != "" {
			client.Close()
		} else if !errors.Is(err, shm.ErrClosed) {
			t.Error(err)
		}
	}
	if _, err := client.Prompt(soon(t), "x"); !errors.Is(err, shm.ErrClosed) {
		t.Error(err)
	}
}
