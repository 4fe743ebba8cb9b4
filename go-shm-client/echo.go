package shm

import (
	"context"
	"fmt"
	"time"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// An EchoResult is the server's answer to an echo.
type EchoResult struct {
	Checksum  uint64        // of all the pixels, as the server read them; compare it with Checksum
	Batch     int           // how many echoes the server answered together, this one counted
	QueueTime time.Duration // from the call until the server took it
	ModelTime time.Duration // from there until it had the checksum, where it measures that
}

// Echo sends PixelBytes bytes through the server, all the way but the model. It waits for a free slot.
func (c *Client) Echo(ctx context.Context, pixels []byte) (EchoResult, error) {
	return c.echo(ctx, pixels, take)
}

// TryEcho is Echo that returns ErrRingFull when every slot is taken.
func (c *Client) TryEcho(ctx context.Context, pixels []byte) (EchoResult, error) {
	return c.echo(ctx, pixels, tryTake)
}

func (c *Client) echo(ctx context.Context, pixels []byte, claim claim) (EchoResult, error) {
	s, slot, err := c.claim(ctx, pixels, claim)
	if err != nil {
		return EchoResult{}, err
	}
	result, owned, err := echo(ctx, s, slot, pixels)
	if owned {
		s.Release(slot)
	}
	return result, err
}

func echo(ctx context.Context, s *session.Session, slot uint32, pixels []byte) (result EchoResult, owned bool, err error) {
	done, owned, err := s.CallWith(ctx, slot, pixels, layout.OpEcho, 0)
	if err == nil {
		err = statusError(done, s, slot)
	}
	if err != nil {
		return EchoResult{}, owned, err
	}
	return EchoResult{
		Checksum:  done.Checksum,
		Batch:     int(done.Batch),
		QueueTime: time.Duration(done.QueueNS),
		ModelTime: time.Duration(done.ModelNS),
	}, owned, nil
}

// Ping measures one echo: through the server, but not through its model.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	slot, err := c.ReserveImage(ctx)
	if err != nil {
		return 0, err
	}
	defer slot.Release()
	var want uint64 // of whatever lies there
	if err := slot.Fill(func(pixels []byte) { want = Checksum(pixels) }); err != nil {
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
