package segment

import (
	"fmt"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Elements are how many elements a checked tensor's row has.
func Elements(t layout.Tensor) int { return int(elements(t)) }

// PartBytes are the bytes of one part of a checked tensor's row: what one more in its first dimension adds.
func PartBytes(t layout.Tensor) int {
	return Elements(t) / int(t.Dims[0]) * layout.DatatypeBytes[t.Datatype]
}

// CountingBytes are how many of a row's bytes count, where extent is the call's.
func CountingBytes(t layout.Tensor, extent uint32) int {
	if t.Symbolic == 0 {
		extent = t.Dims[0]
	}
	return int(extent) * PartBytes(t)
}

// Bound is the most that the symbolic dimension of tensors can be; 0 where none has one.
func Bound(tensors []layout.Tensor) uint32 {
	for i := range tensors { // without a copy: each completion is checked against it
		if tensors[i].Symbolic != 0 {
			return tensors[i].Dims[0]
		}
	}
	return 0
}

// elements is the product of a tensor's dimensions, or more than fit a segment where that would overflow.
func elements(t layout.Tensor) uint64 {
	product := uint64(1)
	for _, dim := range t.Dims[:t.Rank] {
		if product *= uint64(dim); product > layout.MaxSegmentBytes { // 2^30 times 2^32 is less than 2^64
			return product
		}
	}
	return product
}

// checkTensors checks the table, and what the lane's protocol asks of it.
func checkTensors(g *Geometry) error {
	for i, t := range g.Inputs {
		if err := checkTensor(t, g.Lane.Protocol); err != nil {
			return fault.Violated("geometry", "input %d: %v", i, err)
		}
	}
	for i, t := range g.Outputs {
		if err := checkTensor(t, g.Lane.Protocol); err != nil {
			return fault.Violated("geometry", "output %d: %v", i, err)
		}
	}
	if g.Lane.Protocol == layout.ProtocolStream {
		if len(g.Inputs) != 1 || len(g.Outputs) != 1 {
			return fault.Violated("geometry", "%d inputs and %d outputs in a stream lane, not 1 and 1", len(g.Inputs), len(g.Outputs))
		}
		return nil
	}
	bound := Bound(g.Inputs)
	for _, t := range append(g.Inputs, g.Outputs...) {
		if t.Symbolic != 0 && t.Dims[0] != bound {
			return fault.Violated("geometry", "a symbolic dimension of %d, that of the inputs is %d: there is one at most", t.Dims[0], bound)
		}
	}
	return nil
}

func checkTensor(t layout.Tensor, protocol uint32) error {
	switch {
	case t.Datatype < 1 || int(t.Datatype) >= len(layout.DatatypeBytes):
		return fmt.Errorf("datatype %d, not 1 to %d", t.Datatype, len(layout.DatatypeBytes)-1)
	case t.Rank < 1 || t.Rank > layout.MaxRank:
		return fmt.Errorf("rank %d, not 1 to %d", t.Rank, layout.MaxRank)
	case t.Symbolic > 1:
		return fmt.Errorf("symbolic is %d, not 0 or 1", t.Symbolic)
	}
	for i, dim := range t.Dims {
		if counts := i < int(t.Rank); counts != (dim > 0) {
			return fmt.Errorf("dimension %d of %d is %d", i, t.Rank, dim)
		}
	}
	count, each := elements(t), uint64(layout.DatatypeBytes[t.Datatype])
	if count > layout.MaxSegmentBytes/each {
		return fmt.Errorf("a row of more than %d bytes", layout.MaxSegmentBytes)
	}
	if padded := (count*each + layout.RowAlignment - 1) &^ (layout.RowAlignment - 1); uint64(t.RowBytes) != padded {
		return fmt.Errorf("rows of %d bytes, not %d for %d elements of %d", t.RowBytes, padded, count, each)
	}
	if protocol != layout.ProtocolStream {
		return nil
	}
	switch {
	case t.Datatype != layout.DatatypeUint8 || t.Rank != 1 || t.Symbolic != 1:
		return fmt.Errorf("datatype %d, rank %d, symbolic %d in a stream lane, not %d, 1 and 1", t.Datatype, t.Rank, t.Symbolic, layout.DatatypeUint8)
	case t.Dims[0] > layout.MaxTextBytes:
		return fmt.Errorf("text of %d bytes, %d allowed", t.Dims[0], layout.MaxTextBytes)
	}
	return nil
}
