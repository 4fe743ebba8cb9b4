package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fault"
)

func ping(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "ping", "", "Measures echoes one by one, a pause between them: what a call costs when both sides sleep.").
		connects(10*time.Second, "each ping")
	n := f.Int("n", 4, "`pings`")
	interval := f.Duration("interval", 200*time.Millisecond, "`pause` between pings, 0 for none")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused("unexpected argument %q", operands[0])
	case *n < 1:
		return f.misused("-n %d: not 1 or more", *n)
	case *interval < 0:
		return f.misused("-interval %v: not 0 or more", *interval)
	}
	client, info, err := f.useDefault(ctx)
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
		took, err := f.pingOnce(ctx, client)
		switch {
		case err != nil:
			return fmt.Errorf("ping: %w", err)
		case t.stdout.err != nil:
			return t.stdout.err
		case t.json:
			t.object(pingObject{info.Server, f.socket, number(float64(took) / 1e3)})
		default:
			fmt.Fprintf(t.stdout, "%s at %s: %.1f us\n", info.Server, f.socket, float64(took)/1e3)
		}
	}
	return nil
}

type pingObject struct {
	Server       string `json:"server"`
	Socket       string `json:"socket"`
	Microseconds number `json:"microseconds"`
}

func (f *flags) pingOnce(ctx context.Context, client *shm.Client) (time.Duration, error) {
	ctx, cancel := f.bound(ctx)
	defer cancel()
	return client.Ping(ctx)
}

func info(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "info", "", "Prints what the server says about itself.").connects(10*time.Second, "each question")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused("unexpected argument %q", operands[0])
	}
	client, i, err := f.useDefault(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	asking, cancel := f.bound(ctx)
	defer cancel()
	prompts, refusal := client.PromptInfo(asking, "")
	var refused *shm.RefusedError
	if refusal != nil && !errors.As(refusal, &refused) {
		return fmt.Errorf("info: %w", refusal)
	}
	said := infoObject{Server: i.Server, Model: i.Model, Classes: i.Classes, Slots: i.Slots, Prompts: prompts.Model}
	if refused != nil {
		said.NoPrompts = refused.Message
	}
	if t.json {
		t.object(said)
		return nil
	}
	if refused != nil {
		said.Prompts = "none: " + refused.Message
	}
	for _, text := range []*string{&said.Server, &said.Model, &said.Prompts} {
		*text = fault.Line(*text)
	}
	fmt.Fprintf(t.stdout, "server   %s\nmodel    %s\nclasses  %s\nslots    %d\nprompts  %s\n",
		said.Server, said.Model, fault.Line(strings.Join(said.Classes, " ")), said.Slots, said.Prompts)
	return nil
}

type infoObject struct {
	Server    string   `json:"server"`
	Model     string   `json:"model"`
	Classes   []string `json:"classes"`
	Slots     int      `json:"slots"`
	Prompts   string   `json:"prompts,omitempty"`
	NoPrompts string   `json:"no_prompts,omitempty"`
}
