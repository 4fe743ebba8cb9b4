package segment

import (
	"cmp"
	"slices"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Areas are the arrays of one lane, cut out of the mapping: none reaches into another's bytes.
type Areas struct {
	Submissions, Completions, Slots, Replies []byte
	Controls, Progress                       []byte // of a prompt lane
}

// Slice cuts the lane's areas out of memory, the bytes that were checked.
func (g *Geometry) Slice(memory []byte, kind uint32) (Areas, layout.Lane, error) {
	i := slices.IndexFunc(g.Lanes, func(l layout.Lane) bool { return l.Kind == kind })
	if i < 0 {
		return Areas{}, layout.Lane{}, fault.Violated("geometry", "the segment has no lane of kind %d", kind)
	}
	var cut [6][]byte
	for n, a := range areasOf(i, g.Lanes[i]) {
		cut[n] = memory[a.offset : a.offset+a.bytes : a.offset+a.bytes] // checked by checkAreas
	}
	return Areas{cut[0], cut[1], cut[2], cut[3], cut[4], cut[5]}, g.Lanes[i], nil
}

type area struct {
	lane          int
	name          string
	offset, bytes uint64
}

// areasOf multiplies 32-bit numbers in 64 bits: none of the products overflows.
func areasOf(i int, l layout.Lane) []area {
	areas := []area{
		{i, "submissions", l.SubmissionsOffset, uint64(l.SubmissionEntries) * layout.EntryBytes},
		{i, "completions", l.CompletionsOffset, uint64(l.CompletionEntries) * layout.EntryBytes},
		{i, "slots", l.SlotsOffset, uint64(l.SlotCount) * uint64(l.SlotBytes)},
		{i, "replies", l.RepliesOffset, uint64(l.SlotCount) * uint64(l.ReplyBytes)},
	}
	if l.Kind == layout.LaneKindPrompt {
		areas = append(areas,
			area{i, "controls", l.ControlsOffset, uint64(l.SlotCount) * layout.ControlBytes},
			area{i, "progress", l.ProgressOffset, uint64(l.SlotCount) * layout.ProgressBytes})
	}
	return areas
}

// checkAreas sees to it that every area begins on a page behind the header, ends inside the segment, and has its
// pages to itself: no two areas share a byte.
func checkAreas(lanes []layout.Lane, segmentBytes uint64) error {
	var all []area
	for i, l := range lanes {
		for _, a := range areasOf(i, l) {
			switch {
			case a.offset%layout.PageBytes != 0:
				return fault.Violated("geometry", "lane %d: %s at %d, not on a page", i, a.name, a.offset)
			case a.offset < layout.HeaderBytes:
				return fault.Violated("geometry", "lane %d: %s at %d, inside the header", i, a.name, a.offset)
			case a.offset > segmentBytes || a.bytes > segmentBytes-a.offset:
				return fault.Violated("geometry", "lane %d: %d bytes of %s at %d leave the segment of %d bytes",
					i, a.bytes, a.name, a.offset, segmentBytes)
			}
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b area) int { return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.bytes, b.bytes)) })
	for i := 1; i < len(all); i++ {
		below, above := all[i-1], all[i]
		if above.offset-below.offset < below.bytes {
			return fault.Violated("geometry", "lane %d's %s overlap lane %d's %s", below.lane, below.name, above.lane, above.name)
		}
	}
	return nil
}
