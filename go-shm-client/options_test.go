//go:build linux

package shm

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

func TestAnOptionThatMakesNoSenseIsAnErrorThatSaysWhatWasExpected(t *testing.T) {
	f := startFake(t, 4)
	for name, c := range map[string]struct {
		option Option
		says   string
	}{
		"spin":            {WithSpin(-1), "WithSpin(-1ns): expected 0 or more"},
		"spin, the least": {WithSpin(math.MinInt64), "expected 0 or more"},
		"slots":           {WithSlots(-1), "WithSlots: -1 slots, expected 0 (the server's default) to 65536"},
		"too many slots":  {WithSlots(65537), "WithSlots: 65537 slots"},
		"prompts":         {WithPromptSlots(-1, 0, 0), "-1 slots"},
		"prompt's bytes":  {WithPromptSlots(0, -5, 0), "-5 bytes of prompt"},
		"reply's bytes":   {WithPromptSlots(0, 0, math.MinInt), "bytes of reply"},
		"long replies":    {WithPromptSlots(0, 0, 16<<20+1), "16777217 bytes of reply, expected 0 (the server's default) to 16777216"},
		"logger":          {WithLogger(nil), "expected a logger"},
	} {
		if client, err := Dial(soon(t), f.Path, c.option); err == nil || client != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.Last() != nil {
		t.Error("a client connected")
	}
	for name, option := range map[string]Option{
		"0 slots":    WithSlots(0),
		"no spin":    WithSpin(0),
		"0 prompts":  WithPromptSlots(0, 0, 0),
		"most slots": WithPromptSlots(65536, 16<<20, 16<<20),
	} {
		client, err := Dial(soon(t), f.Path, option)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		client.Close()
	}
}

func TestAPromptsOptionThatMakesNoSenseIsRefusedBeforeAnythingIsSent(t *testing.T) {
	f := startFake(t, 4)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Finish(got, layout.StatusOK, "") }
	client := dialFake(t, f)
	for name, option := range map[string]PromptOption{
		"no steps":       SamplingSteps(0),
		"negative steps": SamplingSteps(-1),
		"cold":           Temperature(-0.1),
		"NaN":            Temperature(math.NaN()),
		"infinite":       Temperature(math.Inf(1)),
		"too hot":        Temperature(1e39), // infinite as a float32
		"top-k":          TopK(-1),
		"no reply":       WithReply(nil),
	} {
		if _, err := client.Prompt(soon(t), "x", option); !errors.Is(err, ErrInvalidPrompt) || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := client.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
	if _, err := client.Prompt(soon(t), "x", SamplingSteps(1), Temperature(0), TopK(0), Seed(0)); err != nil {
		t.Error(err)
	}
}

func TestSpinForeverIsABudgetLikeAnyOther(t *testing.T) {
	for _, spin := range []time.Duration{SpinForever, SpinForever - 1, 1} {
		client := dialFake(t, startFake(t, 1), WithSpin(spin))
		if _, err := client.Echo(soon(t), gray(1)); err != nil {
			t.Errorf("%v: %v", spin, err)
		}
	}
}
