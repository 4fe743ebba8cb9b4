package shm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// lease is the part of a Slot that its copies share. There is one for each slot of a session, reused by one lease
// after another, so that a reservation allocates nothing; a Slot of an earlier generation gets nowhere with it.
type lease struct {
	conn  *connection
	slot  uint32
	state atomic.Uint64 // generation<<2 | one of the constants below

	// Of whoever made the lease busy.
	extent uint32
	done   layout.Completion // of the last call that succeeded
}

const (
	leaseIdle     = 0 // the tensors may be written and read
	leaseBusy     = 1 // a call is in flight
	leaseReleased = 2 // a call is in flight, and releases the slot when it ends
)

// open begins the next generation. The caller owns the slot.
func (l *lease) open() Slot {
	generation := l.state.Load()>>2 + 1
	l.extent, l.done = segment.Bound(l.conn.Geometry().Inputs), layout.Completion{}
	l.state.Store(generation<<2 | leaseIdle)
	return Slot{l, generation}
}

func (l *lease) close(generation uint64) {
	for {
		switch state := l.state.Load(); state {
		case generation<<2 | leaseIdle:
			if l.state.CompareAndSwap(state, (generation+1)<<2) {
				l.conn.Release(l.slot)
				return
			}
		case generation<<2 | leaseBusy:
			if l.state.CompareAndSwap(state, generation<<2|leaseReleased) {
				return
			}
		default:
			return // over already, or about to be
		}
	}
}

// begin makes the lease busy: until end, nobody else uses its tensors.
func (s Slot) begin() error {
	if s.lease == nil {
		return ErrSlotReleased
	}
	idle := s.generation<<2 | leaseIdle
	for !s.lease.state.CompareAndSwap(idle, s.generation<<2|leaseBusy) {
		switch state := s.lease.state.Load(); {
		case state>>2 != s.generation || state&3 == leaseReleased:
			return ErrSlotReleased
		case state != idle:
			return ErrSlotBusy
		}
	}
	return nil
}

// beginAll is begin for each of them, or for none.
func beginAll(slots []Slot) error {
	for i, s := range slots {
		if err := s.begin(); err != nil {
			endAll(slots[:i])
			return err
		}
	}
	return nil
}

func (s Slot) end() {
	if !s.lease.state.CompareAndSwap(s.generation<<2|leaseBusy, s.generation<<2|leaseIdle) { // released meanwhile
		s.lease.state.Store((s.generation + 1) << 2)
		s.lease.conn.Release(s.lease.slot)
	}
}

func endAll(slots []Slot) {
	for _, s := range slots {
		s.end()
	}
}

// lose ends the lease of a slot that is quarantined: the lane releases it, or has done so. It may even be leased to somebody else
// by now, so only our own generation is ended.
func (s Slot) lose() {
	busy, released, over := s.generation<<2|leaseBusy, s.generation<<2|leaseReleased, (s.generation+1)<<2
	if !s.lease.state.CompareAndSwap(busy, over) {
		s.lease.state.CompareAndSwap(released, over)
	}
}

// call has the server do op with the slot's inputs. Without an error the lease is busy afterwards, so that the outputs can be
// read: end follows.
func (s Slot) call(ctx context.Context, op uint16) error {
	slots, submissions := [1]Slot{s}, [1]layout.Submission{}
	return callAll(ctx, op, slots[:], submissions[:])
}

// callAll is call for neighbouring slots at once. submissions is room for as many. Where some fail, the error is the first one's.
func callAll(ctx context.Context, op uint16, slots []Slot, submissions []layout.Submission) error {
	if err := beginAll(slots); err != nil {
		return err
	}
	for i, s := range slots {
		submissions[i] = layout.Submission{Op: op, Extent: s.lease.extent}
	}
	first := slots[0].lease
	unsent := first.conn.Do(ctx, first.slot, submissions)
	if errors.Is(unsent, fault.Quarantined) {
		for _, s := range slots {
			s.lose()
		}
		return unsent
	}
	var failure error
	mayHaveRun := false
	for _, s := range slots {
		err := s.lease.answer(ctx, op, unsent)
		mayHaveRun = mayHaveRun || !errors.Is(err, ErrNotRun)
		if failure == nil {
			failure = err
		}
	}
	if failure == nil {
		return nil
	}
	endAll(slots)
	if mayHaveRun && errors.Is(failure, ErrNotRun) {
		return partly{failure}
	}
	return failure
}

// partly is the error of some rows of a batch, of which others may have run: it is not ErrNotRun, whatever else it is.
type partly struct{ error }

func (e partly) Is(target error) bool { return target != ErrNotRun && errors.Is(e.error, target) }
func (e partly) As(target any) bool   { return errors.As(e.error, target) }

// answer is how the call of a busy lease ended, which was not sent because of unsent, or was.
func (l *lease) answer(ctx context.Context, op uint16, unsent error) error {
	done, err := layout.Completion{}, unsent
	if err == nil {
		done, err = l.conn.Result(l.slot)
	}
	if err == nil {
		err = statusError(done, l.conn.Session, l.slot)
	} else if errors.Is(err, fault.Moved) {
		done, err = l.ferry(ctx, op)
	}
	if err == nil {
		l.done = done
	}
	return err
}

// ferry makes the call of a slot whose session has moved, and did not run it, in a slot of the next session: the inputs are
// copied there, and the outputs back. The memory of the session that has moved is its slots' until they are released.
func (l *lease) ferry(ctx context.Context, op uint16) (layout.Completion, error) {
	conn, number, err := l.conn.link.claim(ctx, 1)
	if err != nil {
		return layout.Completion{}, err
	}
	next := conn.leases[number].open()
	defer next.Release()
	there := next.lease
	was, is := &l.conn.Metadata.Model, &conn.Metadata.Model
	if !sameTensors(was, is) || l.extent > there.extent {
		expected := was.String()
		if l.extent > 0 {
			expected += fmt.Sprintf(" with an extent of %d", l.extent)
		}
		return layout.Completion{}, &SignatureError{expected, *is}
	}
	there.extent = l.extent
	if err := l.touchWith(there, func() {
		for i := range l.conn.Geometry().Inputs {
			copy(there.input(i), l.input(i))
		}
	}); err != nil {
		return layout.Completion{}, notRun(err)
	}
	if err := next.call(ctx, op); err != nil {
		return layout.Completion{}, err
	}
	defer next.end()
	return there.done, l.touchWith(there, func() {
		for i := range l.conn.Geometry().Outputs {
			copy(l.output(i), there.output(i))
		}
	})
}

// touchWith runs f, which touches the memory of both.
func (l *lease) touchWith(other *lease, f func()) (err error) {
	if failed := l.conn.Touch(func() { err = other.conn.Touch(f) }); failed != nil {
		return failed
	}
	return err
}

// input is what counts of the row of input i.
func (l *lease) input(i int) []byte {
	return l.conn.Input(i, l.slot, 1)[:segment.CountingBytes(l.conn.Geometry().Inputs[i], l.extent)]
}

// output is what counts of the row of output i.
func (l *lease) output(i int) []byte {
	return l.conn.Output(i, l.slot, 1)[:segment.CountingBytes(l.conn.Geometry().Outputs[i], l.extent)]
}
