package segment

import (
	"cmp"
	"fmt"
	"slices"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Areas are the arrays of the lane, cut out of the mapping: none reaches into another's bytes.
type Areas struct {
	Submissions, Completions, Messages []byte
	Inputs, Outputs                    [][]byte // a row for each slot
	Controls, Progress                 []byte   // of a stream lane
}

// Slice cuts the lane's areas out of memory, the bytes that were checked.
func (g *Geometry) Slice(memory []byte) Areas {
	var cut [][]byte
	for _, a := range g.areas() {
		cut = append(cut, memory[a.offset:a.offset+a.bytes:a.offset+a.bytes]) // checked by checkAreas
	}
	inputs, outputs := 3+len(g.Inputs), 3+len(g.Inputs)+len(g.Outputs)
	areas := Areas{Submissions: cut[0], Completions: cut[1], Messages: cut[2], Inputs: cut[3:inputs:inputs], Outputs: cut[inputs:outputs:outputs]}
	if g.Lane.Protocol == layout.ProtocolStream {
		areas.Controls, areas.Progress = cut[outputs], cut[outputs+1]
	}
	return areas
}

type area struct {
	name          string
	offset, bytes uint64
}

// areas multiplies 32-bit numbers in 64 bits: none of the products overflows.
func (g *Geometry) areas() []area {
	l, slots := g.Lane, uint64(g.Lane.SlotCount)
	areas := []area{
		{"submissions", l.SubmissionsOffset, uint64(l.SubmissionEntries) * layout.EntryBytes},
		{"completions", l.CompletionsOffset, uint64(l.CompletionEntries) * layout.EntryBytes},
		{"messages", l.MessagesOffset, slots * layout.MessageBytes},
	}
	for i, t := range g.Inputs {
		areas = append(areas, area{fmt.Sprint("rows of input ", i), t.Offset, slots * uint64(t.RowBytes)})
	}
	for i, t := range g.Outputs {
		areas = append(areas, area{fmt.Sprint("rows of output ", i), t.Offset, slots * uint64(t.RowBytes)})
	}
	if l.Protocol == layout.ProtocolStream {
		areas = append(areas,
			area{"controls", l.ControlsOffset, slots * layout.ControlBytes},
			area{"progress", l.ProgressOffset, slots * layout.ProgressBytes})
	}
	return areas
}

// checkAreas sees to it that every area begins on a page behind the header, ends inside the segment, and has its
// pages to itself: no two areas share a byte.
func checkAreas(g *Geometry) error {
	all := g.areas()
	for _, a := range all {
		switch {
		case a.offset%layout.PageBytes != 0:
			return fault.Violated("geometry", "%s at %d, not on a page", a.name, a.offset)
		case a.offset < layout.HeaderBytes:
			return fault.Violated("geometry", "%s at %d, inside the header", a.name, a.offset)
		case a.offset > g.SegmentBytes || a.bytes > g.SegmentBytes-a.offset:
			return fault.Violated("geometry", "%d bytes of %s at %d leave the segment of %d bytes", a.bytes, a.name, a.offset, g.SegmentBytes)
		}
	}
	slices.SortFunc(all, func(a, b area) int { return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.bytes, b.bytes)) })
	for i := 1; i < len(all); i++ {
		if below, above := all[i-1], all[i]; above.offset-below.offset < below.bytes {
			return fault.Violated("geometry", "%s overlap %s", below.name, above.name)
		}
	}
	return nil
}
