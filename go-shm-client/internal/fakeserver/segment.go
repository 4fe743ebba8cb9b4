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

// PromptBytes and PromptReplyBytes are the slots and replies of a prompt lane.
const (
	PromptBytes      = 64
	PromptReplyBytes = 1024
)

// Header is a correct header for one image lane: page by page, as small as it gets.
func Header(slots uint32) (layout.Header, layout.Lane) {
	entries := powerOfTwo(slots)
	return header(layout.Lane{
		Kind:              layout.LaneKindImage,
		SlotCount:         slots,
		SlotBytes:         layout.ImageBytes,
		ReplyBytes:        ReplyBytes,
		SubmissionEntries: entries,
		CompletionEntries: entries,
	})
}

// PromptHeader is Header for a prompt lane.
func PromptHeader(slots uint32) (layout.Header, layout.Lane) {
	return header(layout.Lane{
		Kind:              layout.LaneKindPrompt,
		SlotCount:         slots,
		SlotBytes:         PromptBytes,
		ReplyBytes:        PromptReplyBytes,
		SubmissionEntries: powerOfTwo(slots),
		CompletionEntries: 2 * powerOfTwo(slots),
	})
}

func powerOfTwo(slots uint32) uint32 {
	entries := uint32(1)
	for entries < slots {
		entries *= 2
	}
	return entries
}

func header(lane layout.Lane) (layout.Header, layout.Lane) {
	at := uint64(layout.HeaderBytes)
	next := func(bytes uint64) uint64 {
		offset := at
		at += (bytes + layout.PageBytes - 1) / layout.PageBytes * layout.PageBytes
		return offset
	}
	slots := uint64(lane.SlotCount)
	lane.SubmissionsOffset = next(uint64(lane.SubmissionEntries) * layout.EntryBytes)
	lane.CompletionsOffset = next(uint64(lane.CompletionEntries) * layout.EntryBytes)
	lane.SlotsOffset = next(slots * uint64(lane.SlotBytes))
	lane.RepliesOffset = next(slots * uint64(lane.ReplyBytes))
	if lane.Kind == layout.LaneKindPrompt {
		lane.ControlsOffset = next(slots * layout.ControlBytes)
		lane.ProgressOffset = next(slots * layout.ProgressBytes)
	}
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
	return heapSegment(Header(slots))
}

// HeapPrompts is a correct segment with one prompt lane on the heap.
func HeapPrompts(slots uint32) ([]byte, layout.Lane) {
	return heapSegment(PromptHeader(slots))
}

func heapSegment(header layout.Header, lane layout.Lane) ([]byte, layout.Lane) {
	memory := machine.AlignedBytes(int(header.SegmentBytes), layout.PageBytes)
	Encode(memory, header, lane)
	return memory, lane
}
