package shm

import (
	"context"
	"fmt"
	"time"

	"go-shm-client/internal/layout"
)

// An EchoResult is the server's answer to an echo.
type EchoResult struct {
	Checksum uint64 // of all the pixels, as the server read them; compare it with Checksum
	Timing          // ModelTime is until it had the checksum, where it measures that
}

// Echo sends PixelBytes bytes through the server, all the way but the model. It waits for a free slot.
func (c *Client) Echo(ctx context.Context, pixels []byte) (EchoResult, error) {
	return c.echo(ctx, pixels, (*link).claim)
}

// TryEcho is Echo that returns ErrRingFull when every slot is taken.
func (c *Client) TryEcho(ctx context.Context, pixels []byte) (EchoResult, error) {
	return c.echo(ctx, pixels, (*link).tryClaim)
}

func (c *Client) echo(ctx context.Context, pixels []byte, claim claim) (EchoResult, error) {
	slot, err := c.reserveFor(ctx, pixels, claim)
	if err != nil {
		return EchoResult{}, err
	}
	defer slot.Release()
	if err := slot.write(pixels); err != nil {
		return EchoResult{}, err
	}
	return slot.Echo(ctx)
}

// Echo has the server read the inputs where they are; its checksum is over all of them, one after the other.
func (s Slot) Echo(ctx context.Context) (EchoResult, error) {
	if err := s.call(ctx, layout.OpEcho); err != nil {
		return EchoResult{}, err
	}
	defer s.end()
	return EchoResult{s.lease.done.Checksum, timing(&s.lease.done)}, nil
}

// checksum is what the server has to find in the slot's inputs.
func (s Slot) checksum() (uint64, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.end()
	var sums checksum
	err := s.lease.conn.Touch(func() {
		for i := range s.lease.conn.Geometry().Inputs {
			sums.add(s.lease.input(i))
		}
	})
	return sums.value(), notRun(err)
}

// Ping measures one echo: through the server, but not through its default model.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	l, err := c.link(ctx, c.images)
	if err != nil {
		return 0, err
	}
	slot, err := l.reserve(ctx, (*link).claim)
	if err != nil {
		return 0, err
	}
	defer slot.Release()
	want, err := slot.checksum() // of whatever lies there
	if err != nil {
		return 0, err
	}
	began := time.Now()
	echo, err := slot.Echo(ctx)
	took := time.Since(began)
	if err == nil && echo.Checksum != want {
		err = fmt.Errorf("%w: ping answered with checksum %#x, not %#x", ErrProtocol, echo.Checksum, want)
	}
	return took, err
}
