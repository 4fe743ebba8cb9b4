// Package segment is the memory that both processes map: its geometry, checked once and kept in private memory,
// and the mapping itself.
//
//	g, err := segment.Check(memory, size, epoch)    // layout.md, "What is rejected, and how"
//	areas, err := g.Slice(memory, layout.LaneKindImage)
package segment

import (
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Geometry is a private copy of the header, checked. The header is not read again for any of it.
type Geometry struct {
	SegmentBytes uint64
	Epoch        uint64
	Minor        uint16
	Lanes        []layout.Lane
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
	lanes := make([]layout.Lane, h.LaneCount)
	for i := range lanes {
		lanes[i] = layout.DecodeLane(private[layout.HeaderLanesAt+i*layout.LaneBytes:])
		if err := checkLane(i, lanes[i]); err != nil {
			return Geometry{}, err
		}
		for j, earlier := range lanes[:i] {
			if earlier.Kind == lanes[i].Kind {
				return Geometry{}, fault.Violated("geometry", "lanes %d and %d are both of kind %d", j, i, earlier.Kind)
			}
		}
	}
	if err := checkAreas(lanes, h.SegmentBytes); err != nil {
		return Geometry{}, err
	}
	return Geometry{h.SegmentBytes, h.Epoch, h.LayoutMinor, lanes}, nil
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
	case h.LaneCount < 1 || h.LaneCount > layout.MaxLanes:
		return fault.Violated("geometry", "%d lanes, not 1 to %d", h.LaneCount, layout.MaxLanes)
	}
	return nil
}

func checkLane(i int, l layout.Lane) error {
	completionsPerSlot := uint64(1)
	if l.Kind == layout.LaneKindPrompt {
		completionsPerSlot = 2 // at most one "more" and one final completion
	}
	switch {
	case l.SlotCount < 1 || l.SlotCount > layout.MaxSlots:
		return fault.Violated("geometry", "lane %d: %d slots, not 1 to %d", i, l.SlotCount, layout.MaxSlots)
	case l.SlotBytes == 0 || l.SlotBytes%layout.EntryBytes != 0:
		return fault.Violated("geometry", "lane %d: slots of %d bytes, not a multiple of %d", i, l.SlotBytes, layout.EntryBytes)
	case l.Kind == layout.LaneKindImage && l.SlotBytes != layout.ImageBytes:
		return fault.Violated("geometry", "lane %d: image slots of %d bytes, not %d", i, l.SlotBytes, layout.ImageBytes)
	case l.ReplyBytes%layout.LineBytes != 0:
		return fault.Violated("geometry", "lane %d: replies of %d bytes, not a multiple of %d", i, l.ReplyBytes, layout.LineBytes)
	case !isPowerOfTwo(l.SubmissionEntries) || l.SubmissionEntries < l.SlotCount:
		return fault.Violated("geometry", "lane %d: %d submission entries for %d slots", i, l.SubmissionEntries, l.SlotCount)
	case !isPowerOfTwo(l.CompletionEntries) || uint64(l.CompletionEntries) < completionsPerSlot*uint64(l.SlotCount):
		return fault.Violated("geometry", "lane %d: %d completion entries for %d slots", i, l.CompletionEntries, l.SlotCount)
	}
	return nil
}

func isPowerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }
