package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	shm "go-shm-client"
)

func ping(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newFlags("ping", "", "Measures echoes one by one, a pause between them: what a call costs when both sides sleep.")
	n := f.Int("n", 4, "`pings`")
	interval := f.Duration("interval", 200*time.Millisecond, "`pause` between pings")
	operands, err := f.parse(args, stdout, stderr)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused(stderr, "unexpected argument %q", operands[0])
	case *n < 1:
		return f.misused(stderr, "-n %d: not 1 or more", *n)
	}
	client, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	for i := range *n {
		if i > 0 {
			select {
			case <-time.After(*interval):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		took, err := pingOnce(ctx, client, f.timeout)
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		fmt.Fprintf(stdout, "%s at %s: %.1f us\n", client.Info().Server, f.socket, float64(took)/1e3)
	}
	return nil
}

func pingOnce(ctx context.Context, client *shm.Client, timeout time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return client.Ping(ctx)
}

func info(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newFlags("info", "", "Prints what the server says about itself.")
	operands, err := f.parse(args, stdout, stderr)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused(stderr, "unexpected argument %q", operands[0])
	}
	client, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	i := client.Info()
	fmt.Fprintf(stdout, "server   %s\nmodel    %s\nclasses  %s\nslots    %d\n", i.Server, i.Model, strings.Join(i.Classes, " "), i.Slots)
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var refused *shm.RefusedError
	switch prompts, err := client.PromptInfo(ctx); {
	case errors.As(err, &refused):
		fmt.Fprintf(stdout, "prompts  none: %s\n", refused.Message)
	case err != nil:
		return err
	default:
		fmt.Fprintf(stdout, "prompts  %s\n", prompts.Model)
	}
	return nil
}
