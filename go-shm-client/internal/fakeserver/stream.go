package fakeserver

import (
	"sync/atomic"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// stream is the server's side of a slot's prompt.
type stream struct {
	acknowledged, cancel, extent *atomic.Uint32
	text, mores                  uint32
}

func (s *Server) openStreams() {
	lane := s.geometry.Lane
	s.streams = make([]stream, lane.SlotCount)
	for i := range s.streams {
		control := int(lane.ControlsOffset) + i*layout.ControlBytes
		progress := int(lane.ProgressOffset) + i*layout.ProgressBytes
		s.streams[i] = stream{
			acknowledged: must(machine.Word32(s.memory, control+layout.ControlAcknowledgedAt)),
			cancel:       must(machine.Word32(s.memory, control+layout.ControlCancelAt)),
			extent:       must(machine.Word32(s.memory, progress+layout.ProgressExtentAt)),
		}
	}
}

func (s *Server) begin(got layout.Submission) {
	stream := &s.streams[got.Slot]
	if stream.acknowledged.Load() != 0 { // cancelled it may be by now
		panic("a prompt is submitted with what was acknowledged of the last one")
	}
	stream.text, stream.mores = 0, 0
	stream.extent.Store(0)
}

// Append lets the client have more text: P1 to P3 of layout.md.
func (s *Server) Append(got layout.Submission, text string) {
	stream := &s.streams[got.Slot]
	stream.text += uint32(copy(s.Output(0, got.Slot)[stream.text:], text))
	stream.extent.Store(stream.text)
	if stream.acknowledged.Load() == stream.mores {
		stream.mores++
		s.Publish(layout.Completion{RequestID: got.RequestID, Slot: got.Slot, Status: layout.StatusMore, Extent: stream.text})
	}
}

// Extent is the word that Append grows, for servers that lie.
func (s *Server) Extent(slot uint32) *atomic.Uint32 { return s.streams[slot].extent }

// Cancelled is whether the client wants no more.
func (s *Server) Cancelled(got layout.Submission) bool { return s.streams[got.Slot].cancel.Load() != 0 }

// Finish completes a prompt with the text so far and a message.
func (s *Server) Finish(got layout.Submission, status uint16, message string) {
	s.Answer(got, layout.Completion{Status: status, Extent: s.streams[got.Slot].text, MessageBytes: s.say(got.Slot, message), Batch: 1})
}
