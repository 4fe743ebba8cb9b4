package shm

import (
	"fmt"
	"math"

	"go-shm-client/internal/layout"
)

// DefaultSamplingSteps is how many tokens a reply has at most unless PromptOptions say otherwise.
const DefaultSamplingSteps = 128

// PromptOptions change one prompt. What is zero suits the model. A value that makes no sense is an ErrInvalidPrompt.
//
//	seed := uint64(1)
//	reply, err := client.Prompt(ctx, "To be", shm.PromptOptions{SamplingSteps: 64, Seed: &seed})
type PromptOptions struct {
	Model         string   // who answers, of the server's models; "" is its default
	SamplingSteps int      // most tokens of the reply; 0 is DefaultSamplingSteps
	Temperature   *float64 // how daring the choice of a token is: 0 takes the likeliest each time
	TopK          *int     // draw among that many of the likeliest tokens, 0 among all

	// Seed makes the drawing repeatable: the same prompt, options and seed give the same reply of the same model on the same
	// machine. Without one each prompt has a seed of its own.
	Seed *uint64
}

// submission is what the server is told.
func (o *PromptOptions) submission(prompt string) (layout.Submission, error) {
	s := layout.Submission{SamplingSteps: DefaultSamplingSteps, Extent: uint32(len(prompt))}
	if n := o.SamplingSteps; n != 0 {
		if n < 0 || uint64(n) > math.MaxUint32 {
			return s, fmt.Errorf("%w: sampling steps of %d, expected 1 to 4294967295", ErrInvalidPrompt, n)
		}
		s.SamplingSteps = uint32(n)
	}
	if t := o.Temperature; t != nil {
		if !(*t >= 0 && *t <= math.MaxFloat32) { // NaN is neither
			return s, fmt.Errorf("%w: a temperature of %v, expected 0 or more", ErrInvalidPrompt, *t)
		}
		s.Temperature, s.Flags = float32(*t), s.Flags|layout.SubmissionFlagWithTemperature
	}
	if k := o.TopK; k != nil {
		if *k < 0 || uint64(*k) > math.MaxUint32 {
			return s, fmt.Errorf("%w: top-k of %d, expected 0 to 4294967295", ErrInvalidPrompt, *k)
		}
		s.TopK, s.Flags = uint32(*k), s.Flags|layout.SubmissionFlagWithTopK
	}
	if o.Seed != nil {
		s.Seed, s.Flags = *o.Seed, s.Flags|layout.SubmissionFlagWithSeed
	}
	return s, nil
}

// promptOptions is the one that was given, or none.
func promptOptions(given []PromptOptions) (o PromptOptions, err error) {
	switch len(given) {
	case 0:
		return PromptOptions{}, nil
	case 1:
		return given[0], nil
	}
	return PromptOptions{}, fmt.Errorf("%w: %d PromptOptions, expected one at most", ErrInvalidPrompt, len(given))
}
