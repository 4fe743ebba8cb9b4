package shm

import (
	"context"
	"fmt"
	"slices"
)

// ReserveImage leases a slot of the default model, which is one that takes pictures, or it is a *SignatureError. It waits for a free
// one until ctx ends.
func (c *Client) ReserveImage(ctx context.Context) (Slot, error) {
	return c.reserveImage(ctx, (*link).claim)
}

// TryReserveImage is ReserveImage that returns ErrRingFull when every slot is taken. ctx is for connecting, the first time.
func (c *Client) TryReserveImage(ctx context.Context) (Slot, error) {
	return c.reserveImage(ctx, (*link).tryClaim)
}

// Pixels is the bytes of the model's first input: PixelBytes bytes, planar RGB, where it takes pictures. They hold whatever was there
// before. It is nil while a call is in flight, and when the lease is over. The bytes must not be touched during a call or after
// Release; about those that the server takes away, see Touch.
func (s Slot) Pixels() []byte {
	if s.lease == nil || s.lease.state.Load() != s.generation<<2|leaseIdle {
		return nil
	}
	return s.lease.input(0)
}

// Fill has fill write the pixels, or read them, and returns ErrServerGone where they are gone meanwhile: then fill was left in its
// midst, by a panic that its deferred functions see. The bytes must not be touched after fill has returned, nor by another goroutine.
func (s Slot) Fill(fill func(pixels []byte)) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end() // also when fill panics
	return notRun(s.lease.conn.Touch(func() { fill(s.lease.input(0)) }))
}

// reserveFor leases a slot for pixels. Its errors are ErrNotRun.
func (c *Client) reserveFor(ctx context.Context, pixels []byte, claim claim) (Slot, error) {
	if len(pixels) != PixelBytes {
		return Slot{}, fmt.Errorf("%w: got %d", ErrPixelCount, len(pixels))
	}
	return c.reserveImage(ctx, claim)
}

func (c *Client) reserveImage(ctx context.Context, claim claim) (Slot, error) {
	l, err := c.link(ctx, c.images)
	if err != nil {
		return Slot{}, err
	}
	slot, err := l.reserve(ctx, claim)
	if err != nil {
		return Slot{}, err
	}
	if err := slot.lease.conn.pictures; err != nil {
		slot.Release()
		return Slot{}, err
	}
	return slot, nil
}

// write writes the pixels to a slot that nobody else knows.
func (s Slot) write(pixels []byte) error {
	return notRun(s.lease.conn.Touch(func() { copy(s.lease.input(0), pixels) }))
}

// classes are the labels of a model's one output, where it has some.
func classes(model *Signature) []string {
	if len(model.Outputs) != 1 {
		return nil
	}
	return model.Outputs[0].Labels
}

// suits is nil where a model takes pictures, and where it classifies them.
func suits(model *Signature) (pictures, classifier error) {
	if len(model.Inputs) != 1 || model.Inputs[0].Datatype != "UINT8" || !slices.Equal(model.Inputs[0].Shape, []int{3, 32, 32}) {
		pictures = &SignatureError{"one UINT8 [3 32 32] input", *model}
	}
	if pictures != nil || len(classes(model)) == 0 || len(model.Outputs[0].Shape) != 1 || model.Outputs[0].Datatype != "FP32" {
		classifier = &SignatureError{"one UINT8 [3 32 32] input and one FP32 output with a label for each element", *model}
	}
	return pictures, classifier
}
