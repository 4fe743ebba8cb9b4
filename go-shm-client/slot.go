package shm

import (
	"context"

	"go-shm-client/internal/session"
)

// A Slot is the lease of one image's memory in the segment: what is written to Pixels, the model reads in place. It may
// be used for several calls, one at a time. Release ends the lease; so does a call whose context ends before its
// answer has come, since the server may still be reading the pixels.
//
// A Slot is a value and may be copied; all copies are the same lease. The zero Slot is a lease that is over.
type Slot struct {
	lease      *lease
	generation uint64
}

// ReserveImage leases a slot. It waits for a free one until ctx ends.
func (c *Client) ReserveImage(ctx context.Context) (Slot, error) {
	return c.reserve(ctx, (*session.Session).Claim)
}

// TryReserveImage is ReserveImage that returns ErrRingFull when every slot is taken.
func (c *Client) TryReserveImage() (Slot, error) {
	return c.reserve(context.Background(), tryClaim)
}

func (c *Client) reserve(ctx context.Context, claim claim) (Slot, error) {
	conn, slot, err := c.claim(ctx, claim)
	if err != nil {
		return Slot{}, err
	}
	return conn.leases[slot].open(), nil
}

// Pixels is the leased memory: PixelBytes bytes, planar RGB, holding whatever was there before. It is nil while a call
// is in flight, and when the lease is over. The bytes must not be touched during a call or after Release.
func (s Slot) Pixels() []byte {
	if s.lease == nil || s.lease.state.Load() != s.generation<<2|leaseIdle {
		return nil
	}
	return s.lease.session.Slot(s.lease.slot)
}

// Classify classifies the pixels where they are.
func (s Slot) Classify(ctx context.Context, opts ...CallOption) (Result, error) {
	if err := s.begin(); err != nil {
		return Result{}, err
	}
	result, owned, err := classify(ctx, s.lease.session, s.lease.slot, opts)
	s.end(owned)
	return result, err
}

// Echo has the server read the pixels where they are.
func (s Slot) Echo(ctx context.Context) (EchoResult, error) {
	if err := s.begin(); err != nil {
		return EchoResult{}, err
	}
	result, owned, err := echo(ctx, s.lease.session, s.lease.slot)
	s.end(owned)
	return result, err
}

// Release ends the lease. It may be called when the lease is over already, and then does nothing. While another
// goroutine's call is in flight, the slot is released when that call returns.
func (s Slot) Release() {
	if s.lease != nil {
		s.lease.close(s.generation)
	}
}
