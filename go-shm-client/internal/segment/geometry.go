// Package segment is the memory that both processes map: its geometry, checked once and kept in private memory,
// and the mapping itself.
//
//	g, err := segment.Check(memory, size, epoch)    // layout.md, "What is rejected, and how"
//	areas := g.Slice(memory)
package segment

import (
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Geometry is a private copy of the header, checked. The header is not read again for any of it.
type Geometry struct {
	SegmentBytes    uint64
	Epoch           uint64
	Minor           uint16
	Lane            layout.Lane
	Inputs, Outputs []layout.Tensor
}

// featuresKnown has a bit for every feature that this client understands. None is defined yet.
const featuresKnown = 0

// Check copies the header out of memory and checks it. size and epoch are what the welcome said.
func Check(memory []byte, size, epoch uint64) (Geometry, error) {
	if len(memory) < layout.HeaderBytes {
		return Geometry{}, fault.Violated("geometry", "segment of %d bytes: too small for a header of %d", len(memory), layout.HeaderBytes)
	}
	// The peer may write the header while we check it: only this copy is checked, and only it is used.
	var private [layout.HeaderBytes]byte
	copy(private[:], memory)
	h := layout.DecodeHeader(private[:])
	if err := checkIdentity(h, uint64(len(memory)), size, epoch); err != nil {
		return Geometry{}, err
	}
	lane := layout.DecodeLane(private[layout.HeaderLaneAt:])
	if err := checkLane(lane); err != nil {
		return Geometry{}, err
	}
	tensors := make([]layout.Tensor, lane.InputCount+lane.OutputCount) // at most MaxTensors
	for i := range tensors {
		tensors[i] = layout.DecodeTensor(private[layout.HeaderTensorsAt+i*layout.TensorBytes:])
	}
	g := Geometry{
		SegmentBytes: h.SegmentBytes,
		Epoch:        h.Epoch,
		Minor:        h.LayoutMinor,
		Lane:         lane,
		Inputs:       tensors[:lane.InputCount:lane.InputCount],
		Outputs:      tensors[lane.InputCount:],
	}
	if err := checkTensors(&g); err != nil {
		return Geometry{}, err
	}
	if err := checkAreas(&g); err != nil {
		return Geometry{}, err
	}
	return g, nil
}

func checkIdentity(h layout.Header, mapped, size, epoch uint64) error {
	switch {
	case h.Magic != layout.SegmentMagic:
		return fault.Violated("magic", "header begins with %#x, not %#x", h.Magic, uint64(layout.SegmentMagic))
	case h.LayoutMajor != layout.LayoutMajor:
		return fault.Violated("version", "layout major %d, this client speaks %d", h.LayoutMajor, layout.LayoutMajor)
	case h.FeaturesRequired&^featuresKnown != 0:
		return fault.Violated("features", "the server requires features %#x that this client lacks", h.FeaturesRequired&^featuresKnown)
	case h.HeaderBytes != layout.HeaderBytes:
		return fault.Violated("geometry", "header of %d bytes, not %d", h.HeaderBytes, layout.HeaderBytes)
	case h.SegmentBytes != size:
		return fault.Violated("geometry", "header says %d bytes, welcome says %d", h.SegmentBytes, size)
	case h.SegmentBytes > layout.MaxSegmentBytes || h.SegmentBytes > mapped:
		return fault.Violated("geometry", "segment of %d bytes: %d are mapped and %d allowed", h.SegmentBytes, mapped, layout.MaxSegmentBytes)
	case h.Epoch == 0 || h.Epoch != epoch:
		return fault.Violated("epoch", "header says epoch %#x, welcome says %#x", h.Epoch, epoch)
	}
	return nil
}

func checkLane(l layout.Lane) error {
	completionsPerSlot := uint64(1)
	if l.Protocol == layout.ProtocolStream {
		completionsPerSlot = 2 // at most one "more" and one final completion
	}
	switch {
	case l.Protocol != layout.ProtocolCall && l.Protocol != layout.ProtocolStream:
		return fault.Violated("geometry", "lane of protocol %d, not call (%d) or stream (%d)", l.Protocol, layout.ProtocolCall, layout.ProtocolStream)
	case l.SlotCount < 1 || l.SlotCount > layout.MaxSlots:
		return fault.Violated("geometry", "%d slots, not 1 to %d", l.SlotCount, layout.MaxSlots)
	case !isPowerOfTwo(l.SubmissionEntries) || l.SubmissionEntries < l.SlotCount:
		return fault.Violated("geometry", "%d submission entries for %d slots", l.SubmissionEntries, l.SlotCount)
	case !isPowerOfTwo(l.CompletionEntries) || uint64(l.CompletionEntries) < completionsPerSlot*uint64(l.SlotCount):
		return fault.Violated("geometry", "%d completion entries for %d slots", l.CompletionEntries, l.SlotCount)
	case l.InputCount < 1 || l.OutputCount < 1 || uint64(l.InputCount)+uint64(l.OutputCount) > layout.MaxTensors:
		return fault.Violated("geometry", "%d inputs and %d outputs, not at least 1 of each and %d together", l.InputCount, l.OutputCount, layout.MaxTensors)
	case l.Protocol == layout.ProtocolCall && (l.ControlsOffset != 0 || l.ProgressOffset != 0):
		return fault.Violated("geometry", "controls at %d and progress at %d in a call lane, which has none", l.ControlsOffset, l.ProgressOffset)
	}
	return nil
}

func isPowerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }
