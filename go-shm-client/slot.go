package shm

import "context"

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
	conn, err := c.images.connection()
	if err != nil {
		return Slot{}, notRun(err)
	}
	return conn.lease(conn.Claim(ctx))
}

// TryReserveImage is ReserveImage that returns ErrRingFull when every slot is taken.
func (c *Client) TryReserveImage() (Slot, error) {
	conn, err := c.images.connection()
	if err != nil {
		return Slot{}, notRun(err)
	}
	return conn.lease(conn.TryClaim())
}

// lease leases a slot that was claimed, unless it was not.
func (c *connection) lease(slot uint32, err error) (Slot, error) {
	if err != nil {
		return Slot{}, notRun(err)
	}
	return c.leases[slot].open(), nil
}

// Pixels is the leased memory: PixelBytes bytes, planar RGB, holding whatever was there before. It is nil while a call
// is in flight, and when the lease is over. The bytes must not be touched during a call or after Release.
//
// Memory that two processes share has a risk that no check removes: when the server truncates it, or dies because its file
// system is full, whoever touches the bytes gets a SIGBUS, which ends a Go program. The methods of this package return
// ErrServerGone instead; code of your own does where it runs inside Fill.
func (s Slot) Pixels() []byte {
	if s.lease == nil || s.lease.state.Load() != s.generation<<2|leaseIdle {
		return nil
	}
	return s.lease.session.Slot(s.lease.slot)
}

// Fill has fill write the pixels, or read them, and returns ErrServerGone where they are gone meanwhile: then fill was left in its
// midst, by a panic that its deferred functions see. The bytes must not be touched after fill has returned, nor by another goroutine.
func (s Slot) Fill(fill func(pixels []byte)) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end(true) // also when fill panics
	session := s.lease.session
	return notRun(session.Touch(func() { fill(session.Slot(s.lease.slot)) }))
}

// Classify classifies the pixels where they are.
func (s Slot) Classify(ctx context.Context, opts ...CallOption) (Result, error) {
	if err := s.begin(); err != nil {
		return Result{}, err
	}
	result, owned, err := classify(ctx, s.lease.session, s.lease.slot, nil, opts)
	s.end(owned)
	return result, err
}

// Echo has the server read the pixels where they are.
func (s Slot) Echo(ctx context.Context) (EchoResult, error) {
	if err := s.begin(); err != nil {
		return EchoResult{}, err
	}
	result, owned, err := echo(ctx, s.lease.session, s.lease.slot, nil)
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
