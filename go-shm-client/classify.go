package shm

import (
	"context"
	"slices"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// PixelBytes is the size of an image as the default model sees it: 32 x 32 pixels, planar RGB (1024 bytes red, then green,
// then blue; each row by row from the top).
const PixelBytes = fault.PixelBytes

// A Result is the model's answer: the class with the largest score, the first of those where there are several.
type Result struct {
	Label  string
	Class  int       // Label's index in Info.Classes
	Score  float32   // probability of Label, 0 to 1
	Scores []float32 // of every class; nil unless asked for by WithScores
	Timing
}

// Classify classifies PixelBytes bytes of pixels with the default model, which is one that takes them and gives labelled scores, or
// it is a *SignatureError. It waits for a free slot. Package go-shm-client/pictures makes such bytes of picture files.
func (c *Client) Classify(ctx context.Context, pixels []byte, opts ...CallOption) (Result, error) {
	return c.classify(ctx, pixels, opts, (*link).claim)
}

// TryClassify is Classify that returns ErrRingFull when every slot is taken.
func (c *Client) TryClassify(ctx context.Context, pixels []byte, opts ...CallOption) (Result, error) {
	return c.classify(ctx, pixels, opts, (*link).tryClaim)
}

func (c *Client) classify(ctx context.Context, pixels []byte, opts []CallOption, claim claim) (Result, error) {
	slot, err := c.reserveFor(ctx, pixels, claim)
	if err != nil {
		return Result{}, err
	}
	defer slot.Release()
	if err := slot.write(pixels); err != nil {
		return Result{}, err
	}
	return slot.Classify(ctx, opts...)
}

// Classify classifies the pixels where they are.
func (s Slot) Classify(ctx context.Context, opts ...CallOption) (Result, error) {
	if s.lease == nil {
		return Result{}, ErrSlotReleased
	}
	conn := s.lease.conn
	if conn.classifier != nil {
		return Result{}, conn.classifier
	}
	if err := s.call(ctx, layout.OpRun); err != nil {
		return Result{}, err
	}
	defer s.end()
	output := &conn.Metadata.Model.Outputs[0]
	scores, err := view[float32](s.lease, output.Name)
	if err != nil {
		return Result{}, err
	}
	option, result := collectCall(opts), Result{Timing: timing(&s.lease.done)}
	err = conn.Touch(func() {
		if option.wantScores {
			result.Scores = append(slices.Grow(option.scores, len(scores)), scores...)
			scores = result.Scores // the server's are read once
		}
		result.Class, result.Score = largest(scores)
	})
	if err != nil {
		return Result{}, err
	}
	result.Label = output.Labels[result.Class]
	return result, nil
}

// largest is the index of the largest score, the first of equals, and the score.
func largest(scores []float32) (at int, best float32) {
	best = scores[0]
	for i, score := range scores[1:] {
		if score > best {
			at, best = i+1, score
		}
	}
	return at, best
}
