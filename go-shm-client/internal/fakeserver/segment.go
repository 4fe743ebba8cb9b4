// Package fakeserver is a server for tests: it keeps to layout.md unless it is told to break it, and watches that the
// client does. It runs on heap memory, where the race detector sees it, and behind a real socket.
package fakeserver

import (
	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/segment"
)

// Epoch is the epoch of every segment made here.
const Epoch = 0x0123456789abcdef

// PromptBytes and ReplyBytes are the bounds of a stream lane's texts.
const (
	PromptBytes = 64
	ReplyBytes  = 1024
)

// A Model is what a session can be asked for.
type Model struct {
	doorbell.Signature
	Bound  uint32                           // of the symbolic dimension, where there is one
	Answer func(*Server, layout.Submission) // nil: what the Behaviour says
}

// Brightness is the default call model: it tells dark pictures from bright ones.
var Brightness = Model{Signature: doorbell.Signature{
	Name:     "brightness",
	Version:  "1",
	Platform: "go",
	Inputs:   []doorbell.Tensor{{Name: "pixels", Datatype: "UINT8", Shape: []int{3, 32, 32}}},
	Outputs:  []doorbell.Tensor{{Name: "scores", Datatype: "FP32", Shape: []int{2}, Labels: []string{"dark", "bright"}}},
}}

// Scribe is the default stream model.
var Scribe = Model{Signature: doorbell.Signature{
	Name:    "scribe",
	Inputs:  []doorbell.Tensor{{Name: "prompt", Datatype: "UINT8", Shape: []int{-1}}},
	Outputs: []doorbell.Tensor{{Name: "text", Datatype: "UINT8", Shape: []int{-1}}},
}}

// Plan is the geometry of a lane of a call model: page by page, as small as it gets.
func Plan(m Model, slots uint32) segment.Geometry {
	g := segment.Geometry{Lane: layout.Lane{Protocol: layout.ProtocolCall, SlotCount: slots}}
	for _, t := range m.Inputs {
		g.Inputs = append(g.Inputs, tensor(t, m.Bound))
	}
	for _, t := range m.Outputs {
		g.Outputs = append(g.Outputs, tensor(t, m.Bound))
	}
	return lay(g)
}

// Images is the Plan of the default call model.
func Images(slots uint32) segment.Geometry { return Plan(Brightness, slots) }

// Prompts is the geometry of the stream lane.
func Prompts(slots uint32) segment.Geometry {
	return lay(segment.Geometry{
		Lane:    layout.Lane{Protocol: layout.ProtocolStream, SlotCount: slots},
		Inputs:  []layout.Tensor{tensor(Scribe.Inputs[0], PromptBytes)},
		Outputs: []layout.Tensor{tensor(Scribe.Outputs[0], ReplyBytes)},
	})
}

func tensor(t doorbell.Tensor, bound uint32) layout.Tensor {
	lies := layout.Tensor{Datatype: doorbell.Datatype(t.Datatype), Rank: uint16(len(t.Shape))}
	bytes := uint32(layout.DatatypeBytes[lies.Datatype])
	for i, dim := range t.Shape {
		lies.Dims[i] = uint32(dim)
		if dim == -1 {
			lies.Dims[i], lies.Symbolic = bound, 1
		}
		bytes *= lies.Dims[i]
	}
	lies.RowBytes = up(bytes, layout.RowAlignment)
	return lies
}

// up rounds n up to a multiple of a power of two.
func up[T uint32 | uint64](n, multiple T) T { return (n + multiple - 1) &^ (multiple - 1) }

// lay gives every area pages of its own.
func lay(g segment.Geometry) segment.Geometry {
	at, l := uint64(layout.HeaderBytes), &g.Lane
	next := func(bytes uint64) uint64 {
		offset := at
		at += up(bytes, layout.PageBytes)
		return offset
	}
	slots, entries := uint64(l.SlotCount), uint32(1)
	for entries < l.SlotCount {
		entries *= 2
	}
	l.SubmissionEntries, l.CompletionEntries = entries, entries
	if l.Protocol == layout.ProtocolStream {
		l.CompletionEntries *= 2
	}
	l.InputCount, l.OutputCount = uint32(len(g.Inputs)), uint32(len(g.Outputs))
	l.SubmissionsOffset = next(uint64(l.SubmissionEntries) * layout.EntryBytes)
	l.CompletionsOffset = next(uint64(l.CompletionEntries) * layout.EntryBytes)
	l.MessagesOffset = next(slots * layout.MessageBytes)
	for i := range g.Inputs {
		g.Inputs[i].Offset = next(slots * uint64(g.Inputs[i].RowBytes))
	}
	for i := range g.Outputs {
		g.Outputs[i].Offset = next(slots * uint64(g.Outputs[i].RowBytes))
	}
	if l.Protocol == layout.ProtocolStream {
		l.ControlsOffset = next(slots * layout.ControlBytes)
		l.ProgressOffset = next(slots * layout.ProgressBytes)
	}
	g.SegmentBytes, g.Epoch, g.Minor = at, Epoch, layout.LayoutMinor
	return g
}

// Encode writes the header of a segment to the first page of memory.
func Encode(memory []byte, g segment.Geometry) {
	layout.Header{
		Magic:        layout.SegmentMagic,
		LayoutMajor:  layout.LayoutMajor,
		LayoutMinor:  g.Minor,
		HeaderBytes:  layout.HeaderBytes,
		SegmentBytes: g.SegmentBytes,
		Epoch:        g.Epoch,
	}.Encode(memory)
	g.Lane.Encode(memory[layout.HeaderLaneAt:])
	at := layout.HeaderTensorsAt
	for _, tensors := range [][]layout.Tensor{g.Inputs, g.Outputs} {
		for _, t := range tensors {
			t.Encode(memory[at:])
			at += layout.TensorBytes
		}
	}
}

// Heap is a correct segment on the heap.
func Heap(g segment.Geometry) []byte {
	memory := machine.AlignedBytes(int(g.SegmentBytes), layout.PageBytes)
	Encode(memory, g)
	return memory
}
