package shm

import (
	"context"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// A Batch is the lease of neighbouring slots: the rows that several calls have of a tensor are one array, which the model reads, or
// writes, in place. The server sees all of them at once, and runs them together where it has room for as many.
//
//	batch, err := model.ReserveBatch(ctx, 32)
//	defer batch.Release()
//	x, err := shm.ViewBatch[float32](batch, "x")
//	for i := range x.Len() {
//		fill(x.Row(i))
//	}
//	err = batch.Run(ctx)
//	y, err := shm.ViewBatch[float32](batch, "y")  // valid until Release, or the next Run
//
// What is true of a Slot is true of a Batch: it may be used for several calls, one at a time, a call whose context ends in flight ends
// the lease, and a Batch may be copied. The zero Batch has no rows.
type Batch struct {
	slots       []Slot
	submissions []layout.Submission // room for those of a call
}

// ReserveBatch leases n neighbouring slots. It waits until so many are free, which it is sure to get where every lease ends. More than
// Model.Slots is an ErrTensor; ModelOptions.Slots asks for more.
func (m *Model) ReserveBatch(ctx context.Context, n int) (Batch, error) {
	return m.reserveBatch(ctx, (*link).claim, n)
}

// TryReserveBatch is ReserveBatch that returns ErrRingFull when there are no n free neighbours, or the model is just being replaced.
func (m *Model) TryReserveBatch(n int) (Batch, error) {
	return m.reserveBatch(context.Background(), (*link).tryClaim, n)
}

func (m *Model) reserveBatch(ctx context.Context, claim claim, n int) (Batch, error) {
	conn, first, err := m.claim(ctx, claim, n)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{make([]Slot, n), make([]layout.Submission, n)}
	for i := range b.slots {
		b.slots[i] = conn.leases[int(first)+i].open()
	}
	return b, nil
}

// Len is how many rows there are.
func (b Batch) Len() int { return len(b.slots) }

// Slot is the slot of row i: for a view of its own, its extent, its timing. It is released with the batch.
func (b Batch) Slot(i int) Slot { return b.slots[i] }

// SetExtent is Slot.SetExtent of every row.
func (b Batch) SetExtent(n int) error {
	for _, s := range b.slots {
		if err := s.SetExtent(n); err != nil {
			return err
		}
	}
	return nil
}

// Run runs the model on every row. Without an error, all outputs are there. Where rows fail, the error is that of the first one; it is
// ErrNotRun only where none was run.
func (b Batch) Run(ctx context.Context) error {
	if len(b.slots) == 0 {
		return ErrSlotReleased
	}
	if err := callAll(ctx, layout.OpRun, b.slots, b.submissions); err != nil {
		return err
	}
	endAll(b.slots)
	return nil
}

// Release ends the lease, as Slot.Release does.
func (b Batch) Release() {
	for _, s := range b.slots {
		s.Release()
	}
}

// Rows are a tensor of a Batch: an array of shape (n, ...).
type Rows[T Element] struct {
	Elements []T // of all rows; behind each there may be some that do not count, since a row begins at a multiple of 64 bytes
	Stride   int // from one row to the next, in elements
	Width    int // how many elements of a row count. Where that is Stride, Elements is the array and nothing else
}

// Len is how many rows there are. The zero Rows have none.
func (r Rows[T]) Len() int { return len(r.Elements) / max(1, r.Stride) }

// Row is the elements of row i.
func (r Rows[T]) Row(i int) []T {
	at := i * r.Stride
	return r.Elements[at : at+r.Width : at+r.Width]
}

// ViewBatch is View of every row of a batch. Rows of a symbolic dimension are as wide as its bound; how much of each counts is the extent
// of its Slot.
func ViewBatch[T Element](b Batch, name string) (Rows[T], error) {
	if len(b.slots) == 0 {
		return Rows[T]{}, ErrSlotReleased
	}
	if err := beginAll(b.slots); err != nil {
		return Rows[T]{}, err
	}
	defer endAll(b.slots)
	first := b.slots[0].lease
	t, err := find[T](first.conn, name)
	if err != nil {
		return Rows[T]{}, err
	}
	all, err := viewRows[T](first.conn, t, t.rows(first.conn, first.slot, uint32(len(b.slots))))
	return Rows[T]{all, len(all) / len(b.slots), segment.Elements(*t.lies)}, err
}
