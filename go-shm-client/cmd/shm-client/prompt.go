package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	shm "go-shm-client"
)

func prompt(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newFlags("prompt", " TEXT...", "Has the model answer a prompt, and prints the answer as it is generated. \"-\" reads the prompt from standard input.")
	f.timeout = 5 * time.Minute // a reply takes as long as its tokens
	f.Lookup("timeout").DefValue = f.timeout.String()
	steps := f.Int("steps", shm.DefaultSamplingSteps, "most tokens of the reply, `N`")
	temperature := f.Float64("temperature", -1, "how daring the choice of a token is: 0 takes the likeliest each time; -1 for what suits the model")
	topK := f.Int("top-k", -1, "choose among the `N` likeliest tokens, 0 among all; -1 for what suits the model")
	seed := f.Int64("seed", -1, "the same seed gives the same reply; -1 for a new one")
	stats := f.Bool("stats", false, "print the model and its times to standard error")
	words, err := f.parse(args, stdout, stderr)
	switch {
	case err != nil:
		return err
	case len(words) == 0:
		return f.misused(stderr, "no prompt given")
	case *steps < 1:
		return f.misused(stderr, "-steps %d: not 1 or more", *steps)
	}
	text := strings.Join(words, " ")
	if text == "-" {
		read, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		text = string(read)
	}
	options := []shm.PromptOption{shm.SamplingSteps(*steps)}
	if *temperature >= 0 {
		options = append(options, shm.Temperature(*temperature))
	}
	if *topK >= 0 {
		options = append(options, shm.TopK(*topK))
	}
	if *seed >= 0 {
		options = append(options, shm.Seed(uint64(*seed)))
	}
	client, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	info, err := client.PromptInfo(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	var first time.Duration
	pieces := 0
	for piece, err := range client.Stream(ctx, text, options...) {
		if err != nil {
			if pieces > 0 {
				fmt.Fprintln(stdout)
			}
			return fmt.Errorf("prompt: %w", err)
		}
		if pieces++; pieces == 1 {
			first = time.Since(began)
		}
		if _, err := io.WriteString(stdout, piece); err != nil {
			return err
		}
	}
	fmt.Fprintln(stdout)
	if *stats {
		fmt.Fprintf(stderr, "%s: first text after %.1f ms, %d pieces in %.1f ms\n", info.Model, milliseconds(first), pieces, milliseconds(time.Since(began)))
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
