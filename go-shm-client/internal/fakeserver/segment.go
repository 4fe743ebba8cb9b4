// Package fakeserver is a server for tests: it keeps to layout.md unless it is told to break it, and watches that the
// client does. It runs on heap memory, where the race detector sees it, and behind a real socket.
package fakeserver

import (
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// Epoch is the epoch of every segment made here.
const Epoch = 0x0123456789abcdef

// ReplyBytes holds ten scores, or a model's complaint.
const ReplyBytes = 256

// Header is a correct header for one image lane: page by page, as small as it gets.
func Header(slots uint32) (layout.Header, layout.Lane) {
	entries := uint32(1)
	for entries < slots {
		entries *= 2
	}
	lane := layout.Lane{
		Kind:              layout.LaneKindImage,
		SlotCount:         slots,
		SlotBytes:         layout.ImageBytes,
		ReplyBytes:        ReplyBytes,
		SubmissionEntries: entries,
		CompletionEntries: entries,
	}
	at := uint64(layout.HeaderBytes)
	next := func(bytes uint64) uint64 {
		offset := at
		at += (bytes + layout.PageBytes - 1) / layout.PageBytes * layout.PageBytes
		return offset
	}
	lane.SubmissionsOffset = next(uint64(entries) * layout.EntryBytes)
	lane.CompletionsOffset = next(uint64(entries) * layout.EntryBytes)
	lane.SlotsOffset = next(uint64(slots) * layout.ImageBytes)
	lane.RepliesOffset = next(uint64(slots) * ReplyBytes)
	return layout.Header{
		Magic:        layout.SegmentMagic,
		LayoutMajor:  layout.LayoutMajor,
		LayoutMinor:  layout.LayoutMinor,
		HeaderBytes:  layout.HeaderBytes,
		SegmentBytes: at,
		Epoch:        Epoch,
		LaneCount:    1,
	}, lane
}

// Encode writes a header with its lanes to the first page of memory.
func Encode(memory []byte, header layout.Header, lanes ...layout.Lane) {
	header.Encode(memory)
	for i, lane := range lanes {
		lane.Encode(memory[layout.HeaderLanesAt+i*layout.LaneBytes:])
	}
}

// HeapSegment is a correct segment with one image lane on the heap.
func HeapSegment(slots uint32) ([]byte, layout.Lane) {
	header, lane := Header(slots)
	memory := machine.AlignedBytes(int(header.SegmentBytes), layout.PageBytes)
	Encode(memory, header, lane)
	return memory, lane
}
