package shm

import (
	"context"
	"fmt"
	"time"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// A Slot is the lease of memory in the segment for one call's tensors: what is written to the inputs, the model reads in
// place, and its outputs are read where it wrote them. It may be used for several calls, one at a time. Release ends the lease; so does
// a call whose context ends before its answer has come, since the server may still be reading the inputs.
//
//	slot, err := model.Reserve(ctx)
//	defer slot.Release()
//	ids, err := shm.View[int32](slot, "ids")       // []int32 in the segment
//	err = slot.Run(ctx)
//	vec, err := shm.View[float32](slot, "vector")  // valid until Release, or the next Run
//
// Where the model is replaced by its next version, a slot that was leased before goes on: its call is run by the next version, and the
// outputs are copied to where they are expected.
//
// A Slot is a value and may be copied; all copies are the same lease. The zero Slot is a lease that is over.
type Slot struct {
	lease      *lease
	generation uint64
}

// Timing is how a call spent its time.
type Timing struct {
	Batch     int           // how many calls were run together with this one, itself counted
	QueueTime time.Duration // from the call until the server took it
	ModelTime time.Duration // from there until it had the result
}

func timing(done *layout.Completion) Timing {
	return Timing{int(done.Batch), time.Duration(done.QueueNS), time.Duration(done.ModelNS)}
}

// Run runs the model on the slot's inputs. Without an error, its outputs are in the slot.
func (s Slot) Run(ctx context.Context) error {
	if err := s.call(ctx, layout.OpRun); err != nil {
		return err
	}
	s.end()
	return nil
}

// Timing is that of the slot's last call that succeeded. It is zero before one has, while one is in flight, and when the lease is over.
func (s Slot) Timing() Timing {
	if s.begin() != nil {
		return Timing{}
	}
	defer s.end()
	return timing(&s.lease.done)
}

// SetExtent says how large the model's symbolic dimension is in the calls from now on, 1 to its bound: how many tokens there
// are, say. A new slot's is the bound. Views that were taken before show the extent of then.
func (s Slot) SetExtent(n int) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	conn := s.lease.conn
	bound := int(segment.Bound(conn.Geometry().Inputs))
	switch {
	case bound == 0:
		return fmt.Errorf("%w: an extent of %d, nothing is symbolic in %v", ErrTensor, n, conn.Metadata.Model)
	case n < 1 || n > bound:
		return fmt.Errorf("%w: an extent of %d, expected 1 to %d for %v", ErrTensor, n, bound, conn.Metadata.Model)
	}
	s.lease.extent = uint32(n)
	return nil
}

// Touch runs f, which writes or reads views of the slot that were taken before, and returns ErrServerGone where they are gone
// meanwhile: then f was left in its midst, by a panic that its deferred functions see. Another goroutine must not touch them.
//
// Memory that two processes share has a risk that no check removes: when the server truncates it, or dies because its file
// system is full, whoever touches the bytes gets a SIGBUS, which ends a Go program. The methods of this package return
// ErrServerGone instead; code of your own does where it runs inside Touch or Fill.
func (s Slot) Touch(f func()) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end() // also when f panics
	return s.lease.conn.Touch(f)
}

// Release ends the lease. It may be called when the lease is over already, and then does nothing. While another
// goroutine's call is in flight, the slot is released when that call returns.
func (s Slot) Release() {
	if s.lease != nil {
		s.lease.close(s.generation)
	}
}
