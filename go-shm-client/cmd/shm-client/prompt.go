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
	model       string
}

func newPromptFlags(t *terminal) *promptFlags {
	f := &promptFlags{flags: newFlags(t, "prompt", " TEXT...",
		`Has the model answer a prompt, and prints the answer as it is generated. "-" reads the prompt from standard input. Exit
code 3 says that the reply was cut: it fills -reply-bytes. With -json, each piece is {"response": TEXT}, and the last line is
{"done": true, ...}. "models" lists those that prompts can be put to, protocol stream.`).connects(5*time.Minute, "the whole reply; standard input is waited for")}
	f.StringVar(&f.model, "model", "", "`NAME` of the model that answers (default the server's first of protocol stream)")
	f.UintVar(&f.steps, "steps", shm.DefaultSamplingSteps, "most tokens of the reply, `N`")
	f.Float64Var(&f.temperature, "temperature", 0, "how daring the choice of a token is, `T`: 0 takes the likeliest each time (default what suits the model)")
	f.UintVar(&f.topK, "top-k", 0, "choose among the `N` likeliest tokens, 0 among all (default what suits the model)")
	f.Uint64Var(&f.seed, "seed", 0, "the same seed `N` gives the same reply (default a new one)")
	f.IntVar(&f.replyBytes, "reply-bytes", 32<<10, "room for the reply, at least `N` bytes")
	f.BoolVar(&f.stats, "stats", false, "print the model and its times to standard error")
	return f
}

func (f *promptFlags) prompting() (shm.PromptOptions, error) {
	options := shm.PromptOptions{Model: f.model, SamplingSteps: int(f.steps)}
	switch {
	case f.steps < 1 || f.steps > math.MaxUint32:
		return options, f.misused("-steps %d: not 1 to %d", f.steps, uint32(math.MaxUint32))
	case !(f.temperature >= 0 && f.temperature <= math.MaxFloat32): // NaN is neither
		return options, f.misused("-temperature %v: not 0 or more", f.temperature)
	case f.topK > math.MaxUint32:
		return options, f.misused("-top-k %d: not 0 to %d", f.topK, uint32(math.MaxUint32))
	case f.replyBytes < 1 || f.replyBytes > layout.MaxTextBytes:
		return options, f.misused("-reply-bytes %d: not 1 to %d", f.replyBytes, layout.MaxTextBytes)
	}
	if f.given("temperature") {
		options.Temperature = &f.temperature
	}
	if f.given("top-k") {
		options.TopK = new(int(f.topK))
	}
	if f.given("seed") {
		options.Seed = &f.seed
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

func prompt(ctx context.Context, args []string, t *terminal) error {
	f := newPromptFlags(t)
	words, err := f.parse(args)
	if err != nil {
		return err
	}
	options, err := f.prompting()
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
	// Room for the one prompt, as large as it is; 0 would be the server's default.
	room := shm.StreamModelOptions{Slots: 1, PromptBytes: max(1, len(text)), ReplyBytes: f.replyBytes}
	f.flags.options.StreamModels = map[string]shm.StreamModelOptions{f.model: room}
	var info shm.Info
	client, err := f.use(ctx, func(ctx context.Context, client *shm.Client) (err error) {
		info, err = client.PromptInfo(ctx, f.model)
		return err
	}, f.waitedFor()...)
	if err != nil {
		return fmt.Errorf("prompt: %w", err)
	}
	defer client.Close()
	return f.answer(ctx, client, info, text, options)
}

// waitedFor is the model that -wait waits for; none: all.
func (f *promptFlags) waitedFor() []string {
	if f.model == "" {
		return nil
	}
	return []string{f.model}
}

// answer prints the reply, piece by piece.
func (f *promptFlags) answer(ctx context.Context, client *shm.Client, info shm.Info, text string, options shm.PromptOptions) error {
	t := f.terminal
	ctx, cancel := f.bound(ctx)
	defer cancel()
	var reply shm.Reply
	began := time.Now()
	var first time.Duration
	pieces := 0
	for piece, err := range client.Stream(ctx, text, options) {
		if err != nil {
			if pieces > 0 && !t.json {
				fmt.Fprintln(t.stdout)
			}
			return fmt.Errorf("prompt: %w", err)
		}
		if piece.Reply != nil {
			reply = *piece.Reply
			break
		}
		if pieces++; pieces == 1 {
			first = time.Since(began)
		}
		if t.json {
			t.object(map[string]string{"response": piece.Text})
		} else {
			io.WriteString(t.stdout, piece.Text)
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
