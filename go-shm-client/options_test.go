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
	models := func(m ModelOptions) Options { return Options{Models: map[string]ModelOptions{"x": m}} }
	streams := func(m StreamModelOptions) Options { return Options{StreamModels: map[string]StreamModelOptions{"": m}} }
	for says, options := range map[string]Options{
		"Options.Spin: -2ns, expected a time, NoSpin or SpinForever":                {Spin: -2},
		"Options.Spin: -2562047h47m16.854775808s":                                   {Spin: math.MinInt64},
		`Options.Models["x"].Slots: -1, expected 0 (the server's default) to 65536`: models(ModelOptions{Slots: -1}),
		`Options.Models["x"].Slots: 65537`:                                          models(ModelOptions{Slots: layout.MaxSlots + 1}),
		`Options.Models["x"].Extent: -2`:                                            models(ModelOptions{Extent: -2}),
		`Options.Models["x"].Extent: 2147483647`:                                    models(ModelOptions{Extent: math.MaxInt32}),
		`Options.StreamModels[""].Slots: -1`:                                        streams(StreamModelOptions{Slots: -1}),
		`Options.StreamModels[""].PromptBytes: -5`:                                  streams(StreamModelOptions{PromptBytes: -5}),
		`Options.StreamModels[""].ReplyBytes: -6`:                                   streams(StreamModelOptions{ReplyBytes: -6}),
		`ReplyBytes: 16777217, expected 0 (the server's default) to 16777216`:       streams(StreamModelOptions{ReplyBytes: 16<<20 + 1}),
		"Options.ServerUsers: -1, expected a user's id, 0 or more":                  {ServerUsers: []int{0, -1}},
	} {
		if client, err := NewClient("", options); err == nil || client != nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if _, err := NewClient("", Options{}, Options{}); err == nil || !strings.Contains(err.Error(), "2 Options, expected one at most") {
		t.Error(err)
	}
}

func TestTheMostThatAnOptionCanBeIsAskedFor(t *testing.T) {
	most := Options{
		Models:       map[string]ModelOptions{"x": {Slots: 65536, Extent: 1 << 30}},
		StreamModels: map[string]StreamModelOptions{"y": {Slots: 65536, PromptBytes: 16 << 20, ReplyBytes: 16 << 20}},
	}
	client := clientOf(t, "", most)
	if r := client.config.request(linkKey{layout.ProtocolCall, "x"}); r.Model != "x" || r.Slots != 65536 || r.InputExtent != 1<<30 || r.OutputExtent != 0 {
		t.Errorf("%+v", r)
	}
	if r := client.config.request(linkKey{layout.ProtocolStream, "y"}); r.Model != "y" || r.Slots != 65536 || r.InputExtent != 16<<20 || r.OutputExtent != 16<<20 {
		t.Errorf("%+v", r)
	}
	if r := client.config.request(linkKey{layout.ProtocolStream, "x"}); r.Slots != 0 || r.Protocol != layout.ProtocolStream {
		t.Errorf("of a model that was not mentioned: %+v", r)
	}
}

func TestAPromptsOptionThatMakesNoSenseIsRefusedBeforeAnythingIsSent(t *testing.T) {
	f := startFake(t, 4)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Finish(got, layout.StatusOK, "") }
	client := dialFake(t, f)
	temperature := func(t float64) PromptOptions { return PromptOptions{Temperature: &t} }
	minus, none, zero, seed := -1, 0, 0.0, uint64(0)
	for name, options := range map[string]PromptOptions{
		"negative steps": {SamplingSteps: -1},
		"cold":           temperature(-0.1),
		"NaN":            temperature(math.NaN()),
		"infinite":       temperature(math.Inf(1)),
		"too hot":        temperature(1e39), // infinite as a float32
		"top-k":          {TopK: &minus},
	} {
		if _, err := client.Prompt(soon(t), "x", options); !errors.Is(err, ErrInvalidPrompt) || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.Prompt(soon(t), "x", PromptOptions{}, PromptOptions{}); !errors.Is(err, ErrInvalidPrompt) {
		t.Errorf("two options: %v", err)
	}
	if n := client.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
	if _, err := client.Prompt(soon(t), "x", PromptOptions{SamplingSteps: 1, Temperature: &zero, TopK: &none, Seed: &seed}); err != nil {
		t.Error(err)
	}
}

func TestAPromptIsSentWithItsOptionsAndNoOthers(t *testing.T) {
	f := startFake(t, 4)
	got := make(chan layout.Submission, 1)
	f.Prompts = func(s *fakeserver.Server, submission layout.Submission) {
		got <- submission
		s.Finish(submission, layout.StatusOK, "")
	}
	client := dialFake(t, f)
	temperature, k, seed := 0.5, 3, uint64(9)
	for _, c := range []struct {
		options []PromptOptions
		want    layout.Submission
	}{
		{nil, layout.Submission{SamplingSteps: DefaultSamplingSteps}},
		{[]PromptOptions{{SamplingSteps: 7}}, layout.Submission{SamplingSteps: 7}},
		{[]PromptOptions{{Temperature: &temperature, TopK: &k, Seed: &seed}}, layout.Submission{
			SamplingSteps: DefaultSamplingSteps, Temperature: 0.5, TopK: 3, Seed: 9,
			Flags: layout.SubmissionFlagWithTemperature | layout.SubmissionFlagWithTopK | layout.SubmissionFlagWithSeed,
		}},
	} {
		if _, err := client.Prompt(soon(t), "x", c.options...); err != nil {
			t.Fatal(err)
		}
		s := <-got
		if s.SamplingSteps != c.want.SamplingSteps || s.Flags != c.want.Flags || s.Temperature != c.want.Temperature || s.TopK != c.want.TopK || s.Seed != c.want.Seed {
			t.Errorf("%+v, want %+v", s, c.want)
		}
	}
}

func TestSpinForeverIsABudgetLikeAnyOther(t *testing.T) {
	for _, spin := range []time.Duration{SpinForever, SpinForever - 1, 1} {
		client := dialFake(t, startFake(t, 1), Options{Spin: spin})
		if _, err := client.Echo(soon(t), gray(1)); err != nil {
			t.Errorf("%v: %v", spin, err)
		}
	}
}
