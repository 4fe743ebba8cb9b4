package shm

import (
	"context"
	"fmt"
	"reflect"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/segment"
)

// A Signature is what a model takes and gives, in the words of the Open Inference Protocol v2.
type Signature = doorbell.Signature

// A Tensor is one input or output of a Signature.
type Tensor = doorbell.Tensor

// An Element is an element of a tensor. Those of FP16 and BF16 are uint16, their bits.
type Element interface {
	bool | uint8 | uint16 | uint32 | uint64 | int8 | int16 | int32 | int64 | float32 | float64
}

// kinds are the Go types of the datatypes' elements.
var kinds = [...]reflect.Kind{
	layout.DatatypeBool:   reflect.Bool,
	layout.DatatypeUint8:  reflect.Uint8,
	layout.DatatypeUint16: reflect.Uint16,
	layout.DatatypeUint32: reflect.Uint32,
	layout.DatatypeUint64: reflect.Uint64,
	layout.DatatypeInt8:   reflect.Int8,
	layout.DatatypeInt16:  reflect.Int16,
	layout.DatatypeInt32:  reflect.Int32,
	layout.DatatypeInt64:  reflect.Int64,
	layout.DatatypeFP16:   reflect.Uint16,
	layout.DatatypeBF16:   reflect.Uint16,
	layout.DatatypeFP32:   reflect.Float32,
	layout.DatatypeFP64:   reflect.Float64,
}

// View is the elements of the input or output of that name where they lie in the segment, those that count: of a symbolic dimension,
// as many as the slot's extent says. An input holds whatever was there before; an output is valid after Run. The view must not be
// touched during a call, nor after Release.
func View[T Element](s Slot, name string) ([]T, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	return view[T](s.lease, name)
}

// view is View where the lease is busy.
func view[T Element](l *lease, name string) ([]T, error) {
	t, err := find[T](l.conn, name)
	if err != nil {
		return nil, err
	}
	return viewRows[T](l.conn, t, t.rows(l.conn, l.slot, 1)[:segment.CountingBytes(*t.lies, l.extent)])
}

// viewRows is rows of a tensor, or a part of them, as elements.
func viewRows[T Element](conn *connection, t place, rows []byte) ([]T, error) {
	if t.lies.Datatype == layout.DatatypeBool {
		if err := conn.Touch(func() { makeBools(rows) }); err != nil {
			return nil, err
		}
	}
	return machine.View[T](rows)
}

// makeBools makes bytes ones that a Go bool can have: any other than 0 is 1.
func makeBools(row []byte) {
	for i, b := range row {
		if b > 1 {
			row[i] = 1
		}
	}
}

// place is where a tensor lies: input or output number i.
type place struct {
	lies   *layout.Tensor
	output bool
	i      int
}

func (p place) rows(conn *connection, first, n uint32) []byte {
	if p.output {
		return conn.Output(p.i, first, n)
	}
	return conn.Input(p.i, first, n)
}

// find finds the tensor of that name, whose elements are of type T.
func find[T Element](conn *connection, name string) (place, error) {
	model, g := &conn.Metadata.Model, conn.Geometry()
	for i := range model.Inputs {
		if said := &model.Inputs[i]; said.Name == name {
			return place{&g.Inputs[i], false, i}, isOf[T](said, &g.Inputs[i])
		}
	}
	for i := range model.Outputs {
		if said := &model.Outputs[i]; said.Name == name {
			return place{&g.Outputs[i], true, i}, isOf[T](said, &g.Outputs[i])
		}
	}
	return place{}, fmt.Errorf("%w: no tensor %q in %v", ErrTensor, name, *model)
}

func isOf[T Element](said *Tensor, lies *layout.Tensor) error {
	if kind := reflect.TypeFor[T]().Kind(); kind != kinds[lies.Datatype] {
		return fmt.Errorf("%w: a view of %v as []%v, expected []%v", ErrTensor, said, kind, kinds[lies.Datatype])
	}
	return nil
}

// Call runs a model that has one input and one output, and copies both. The model's symbolic dimension, where it has one, is
// as large as input makes it. It waits for a free slot.
//
//	scores, err := shm.Call[float32](ctx, iris, []float32{5.1, 3.5, 1.4, 0.2})
func Call[Out, In Element](ctx context.Context, m *Model, input []In) ([]Out, error) {
	return call[Out](ctx, m, input, (*link).claim)
}

// TryCall is Call that returns ErrRingFull when every slot is taken.
func TryCall[Out, In Element](ctx context.Context, m *Model, input []In) ([]Out, error) {
	return call[Out](ctx, m, input, (*link).tryClaim)
}

func call[Out, In Element](ctx context.Context, m *Model, input []In, claim claim) ([]Out, error) {
	inputs, outputs := m.Inputs(), m.Outputs()
	if len(inputs) != 1 || len(outputs) != 1 {
		return nil, fmt.Errorf("%w: Call takes a model of one input and one output, use Reserve and View for %v", ErrTensor, m.Signature())
	}
	slot, err := m.reserve(ctx, claim)
	if err != nil {
		return nil, err
	}
	defer slot.Release()
	if err := slot.fit(len(input)); err != nil {
		return nil, err
	}
	to, err := View[In](slot, inputs[0].Name)
	if err == nil {
		_, err = View[Out](slot, outputs[0].Name) // of that type; what it holds comes with the call
	}
	if err == nil {
		err = slot.Touch(func() { copy(to, input) })
	}
	if err != nil {
		return nil, notRun(err)
	}
	if err := slot.call(ctx, layout.OpRun); err != nil {
		return nil, err
	}
	defer slot.end()
	from, err := view[Out](slot.lease, outputs[0].Name)
	if err != nil {
		return nil, err
	}
	result := make([]Out, len(from))
	return result, slot.lease.conn.Touch(func() { copy(result, from) })
}

// fit sees to it that the one input has n elements.
func (s Slot) fit(n int) error {
	conn := s.lease.conn
	said, t := conn.Metadata.Model.Inputs[0], conn.Geometry().Inputs[0]
	all, part := segment.Elements(t), segment.PartBytes(t)/layout.DatatypeBytes[t.Datatype]
	switch {
	case t.Symbolic == 0 && n != all:
		return fmt.Errorf("%w: %d elements for %v, expected %d", ErrTensor, n, said, all)
	case t.Symbolic != 0 && (n < 1 || n > all || n%part != 0):
		return fmt.Errorf("%w: %d elements for %v, expected a multiple of %d, up to %d", ErrTensor, n, said, part, all)
	case t.Symbolic != 0:
		return s.SetExtent(n / part)
	}
	return nil
}
