package shm

import (
	"fmt"
	"math"

	"go-shm-client/internal/layout"
)

// DefaultSamplingSteps is how many tokens a reply has at most unless SamplingSteps says otherwise.
const DefaultSamplingSteps = 128

// A PromptOption changes one prompt. A value that makes no sense is an ErrInvalidPrompt.
type PromptOption func(*promptOptions) error

type promptOptions struct {
	layout.Submission
	reply *Reply
}

// WithReply has the call say in reply how it ended: a loop over Stream sees there whether the text was cut. Its Text is what the
// loop was given; the other fields are set once the model has ended.
func WithReply(reply *Reply) PromptOption {
	return func(o *promptOptions) error {
		if reply == nil {
			return fmt.Errorf("%w: WithReply(nil), expected a Reply", ErrInvalidPrompt)
		}
		o.reply = reply
		return nil
	}
}

// SamplingSteps sets how many tokens the reply has at most, from 1 on.
func SamplingSteps(n int) PromptOption {
	return func(s *promptOptions) error {
		if n < 1 || uint64(n) > math.MaxUint32 {
			return fmt.Errorf("%w: sampling steps of %d, expected 1 to 4294967295", ErrInvalidPrompt, n)
		}
		s.SamplingSteps = uint32(n)
		return nil
	}
}

// Temperature sets how daring the choice of a token is: 0 takes the likeliest each time. By default it is what suits the model.
func Temperature(t float64) PromptOption {
	return func(s *promptOptions) error {
		if !(t >= 0 && t <= math.MaxFloat32) { // NaN is neither
			return fmt.Errorf("%w: a temperature of %v, expected 0 or more", ErrInvalidPrompt, t)
		}
		s.Temperature = float32(t)
		s.Flags |= layout.SubmissionFlagWithTemperature
		return nil
	}
}

// TopK draws among the k likeliest tokens, 0 among all. By default it is what suits the model.
func TopK(k int) PromptOption {
	return func(s *promptOptions) error {
		if k < 0 || uint64(k) > math.MaxUint32 {
			return fmt.Errorf("%w: top-k of %d, expected 0 to 4294967295", ErrInvalidPrompt, k)
		}
		s.TopK = uint32(k)
		s.Flags |= layout.SubmissionFlagWithTopK
		return nil
	}
}

// Seed makes the drawing repeatable: the same prompt, options and seed give the same reply of the same model on the same
// machine. By default each prompt has a seed of its own.
func Seed(seed uint64) PromptOption {
	return func(s *promptOptions) error {
		s.Seed = seed
		s.Flags |= layout.SubmissionFlagWithSeed
		return nil
	}
}

func collectPrompt(prompt string, opts []PromptOption) (promptOptions, error) {
	o := promptOptions{Submission: layout.Submission{SamplingSteps: DefaultSamplingSteps, Extent: uint32(len(prompt))}}
	for _, option := range opts {
		if err := option(&o); err != nil {
			return promptOptions{}, err
		}
	}
	return o, nil
}
