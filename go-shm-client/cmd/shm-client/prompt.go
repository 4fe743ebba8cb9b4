package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/layout"
)

type promptFlags struct {
	*flags
	steps       uint
	temperature float64
	topK        uint
	seed        uint64
	replyBytes  int
	stats       bool
}

func newPromptFlags(t *terminal) *promptFlags {
	f := &promptFlags{flags: newFlags(t, "prompt", " TEXT...",
		`Has the model answer a prompt, and prints the answer as it is generated. "-" reads the prompt from standard input. Exit
code 3 says that the reply was cut: it fills -reply-bytes. With -json, each piece is {"response": TEXT}, and the last line is
{"done": true, ...}.`).connects(5*time.Minute, "the whole reply; standard input is waited for")}
	f.UintVar(&f.steps, "steps", shm.DefaultSamplingSteps, "most tokens of the reply, `N`")
	f.Float64Var(&f.temperature, "temperature", 0, "how daring the choice of a token is, `T`: 0 takes the likeliest each time (default what suits the model)")
	f.UintVar(&f.topK, "top-k", 0, "choose among the `N` likeliest tokens, 0 among all (default what suits the model)")
	f.Uint64Var(&f.seed, "seed", 0, "the same seed `N` gives the same reply (default a new one)")
	f.IntVar(&f.replyBytes, "reply-bytes", 32<<10, "room for the reply, at least `N` bytes")
	f.BoolVar(&f.stats, "stats", false, "print the model and its times to standard error")
	return f
}

func (f *promptFlags) options() ([]shm.PromptOption, error) {
	switch {
	case f.steps < 1 || f.steps > math.MaxUint32:
		return nil, f.misused("-steps %d: not 1 to %d", f.steps, uint32(math.MaxUint32))
	case !(f.temperature >= 0 && f.temperature <= math.MaxFloat32): // NaN is neither
		return nil, f.misused("-temperature %v: not 0 or more", f.temperature)
	case f.topK > math.MaxUint32:
		return nil, f.misused("-top-k %d: not 0 to %d", f.topK, uint32(math.MaxUint32))
	case f.replyBytes < 1 || f.replyBytes > layout.MaxTextBytes:
		return nil, f.misused("-reply-bytes %d: not 1 to %d", f.replyBytes, layout.MaxTextBytes)
	}
	options := []shm.PromptOption{shm.SamplingSteps(int(f.steps))}
	if f.given("temperature") {
		options = append(options, shm.Temperature(f.temperature))
	}
	if f.given("top-k") {
		options = append(options, shm.TopK(int(f.topK)))
	}
	if f.given("seed") {
		options = append(options, shm.Seed(f.seed))
	}
	return options, nil
}

// text is the prompt. It is checked here, where the hint can name what to do.
func (f *promptFlags) text(ctx context.Context, words []string) (string, error) {
	text := strings.Join(words, " ")
	if len(words) == 1 && text == "-" {
		read, err := await(ctx, func() ([]byte, error) {
			return io.ReadAll(io.LimitReader(f.terminal.stdin, layout.MaxTextBytes+1))
		})
		if err != nil {
			return "", fmt.Errorf("standard input: %w", err)
		}
		text = string(read)
	}
	if len(text) > layout.MaxTextBytes {
		return "", fmt.Errorf("prompt: more than %d bytes: that is the most", layout.MaxTextBytes)
	}
	return text, nil
}

// slots asks for room for the one prompt, as large as it is; 0 would be the server's default.
func (f *promptFlags) slots(text string) shm.Option {
	return shm.WithPromptSlots(1, max(1, len(text)), f.replyBytes)
}

func prompt(ctx context.Context, args []string, t *terminal) error {
	f := newPromptFlags(t)
	words, err := f.parse(args)
	if err != nil {
		return err
	}
	options, err := f.options()
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return f.misused("no prompt given")
	}
	text, err := f.text(ctx, words)
	if err != nil {
		return err
	}
	client, err := f.dial(ctx, f.slots(text))
	if err != nil {
		return err
	}
	defer client.Close()
	return f.answer(ctx, client, text, options)
}

// answer prints the reply, piece by piece.
func (f *promptFlags) answer(ctx context.Context, client *shm.Client, text string, options []shm.PromptOption) error {
	t := f.terminal
	ctx, cancel := f.bound(ctx)
	defer cancel()
	info, err := client.PromptInfo(ctx)
	if err != nil {
		return fmt.Errorf("prompt: %w", err)
	}
	var reply shm.Reply
	options = append(options, shm.WithReply(&reply))
	began := time.Now()
	var first time.Duration
	pieces := 0
	for piece, err := range client.Stream(ctx, text, options...) {
		if err != nil {
			if pieces > 0 && !t.json {
				fmt.Fprintln(t.stdout)
			}
			return fmt.Errorf("prompt: %w", err)
		}
		if pieces++; pieces == 1 {
			first = time.Since(began)
		}
		if t.json {
			t.object(map[string]string{"response": piece})
		} else {
			io.WriteString(t.stdout, piece)
		}
		if t.stdout.err != nil {
			return t.stdout.err
		}
	}
	took := time.Since(began)
	if t.json {
		t.object(doneObject{true, reply.Truncated, info.Model, pieces, len(reply.Text), number(milliseconds(first)), number(milliseconds(took))})
	} else {
		fmt.Fprintln(t.stdout)
	}
	if f.stats {
		fmt.Fprintf(t.stderr, "%s: first text after %.1f ms, %d pieces in %.1f ms\n", info.Model, milliseconds(first), pieces, milliseconds(took))
	}
	if reply.Truncated {
		fmt.Fprintf(t.stderr, "shm-client: prompt: the reply was cut after %d bytes: -reply-bytes asks for more room\n", len(reply.Text))
		return errCut
	}
	return nil
}

type doneObject struct {
	Done         bool   `json:"done"`
	Truncated    bool   `json:"truncated"`
	Model        string `json:"model"`
	Pieces       int    `json:"pieces"`
	Bytes        int    `json:"bytes"`
	FirstAfterMS number `json:"first_after_ms"`
	TookMS       number `json:"took_ms"`
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
