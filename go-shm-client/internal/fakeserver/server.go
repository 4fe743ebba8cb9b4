package fakeserver

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/ring"
	"go-shm-client/internal/segment"
)

// Server is the server's side of one lane. One goroutine calls it, except where a method says otherwise.
type Server struct {
	memory          []byte
	geometry        segment.Geometry
	areas           segment.Areas
	submissions     *ring.Consumer
	completions     *ring.Producer
	inFlight        []bool
	streams         []stream // of a stream lane's slots
	serverParked    *atomic.Uint32
	clientParked    *atomic.Uint32
	serverState     *atomic.Uint32
	ring            func() // wakes the client
	Taken, Answered atomic.Int64
}

// New serves the lane in memory. ring wakes the client; it must not block.
func New(memory []byte, g segment.Geometry, ring_ func()) *Server {
	areas := g.Slice(memory)
	s := &Server{
		memory:       memory,
		geometry:     g,
		areas:        areas,
		submissions:  must(ring.NewConsumer(areas.Submissions, 0)),
		completions:  must(ring.NewProducer(areas.Completions, 0)),
		inFlight:     make([]bool, g.Lane.SlotCount),
		serverParked: must(machine.Word32(memory, layout.HeaderServerParkedAt)),
		clientParked: must(machine.Word32(memory, layout.HeaderClientParkedAt)),
		serverState:  must(machine.Word32(memory, layout.HeaderServerStateAt)),
		ring:         ring_,
	}
	if s.isStream() {
		s.openStreams()
	}
	return s
}

func (s *Server) isStream() bool { return s.geometry.Lane.Protocol == layout.ProtocolStream }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// Take takes the next submission, if there is one, and panics when the client broke a rule.
func (s *Server) Take() (layout.Submission, bool) {
	var private [layout.EntryBytes]byte
	if !must(s.submissions.Take(&private)) {
		return layout.Submission{}, false
	}
	got := layout.DecodeSubmission(private[:])
	switch {
	case got.Slot >= s.geometry.Lane.SlotCount:
		panic(fmt.Sprintf("submission of slot %d of %d", got.Slot, s.geometry.Lane.SlotCount))
	case s.inFlight[got.Slot]:
		panic(fmt.Sprintf("slot %d submitted while in flight", got.Slot))
	case got.Extent > segment.Bound(s.geometry.Inputs):
		panic(fmt.Sprintf("submission with an extent of %d, the bound is %d", got.Extent, segment.Bound(s.geometry.Inputs)))
	case got.Op != layout.OpEcho && got.Op != layout.OpRun:
		panic(fmt.Sprintf("submission with op %d", got.Op))
	case got.Flags != 0 && !s.isStream():
		panic(fmt.Sprintf("submission with flags %#x", got.Flags))
	}
	s.inFlight[got.Slot] = true
	if got.Op == layout.OpRun && s.isStream() {
		s.begin(got)
	}
	s.Taken.Add(1)
	return got, true
}

// Park stores server_parked, and reports whether there is nothing to take: S1 to S3.
func (s *Server) Park() bool {
	s.serverParked.Store(1)
	if s.submissions.Empty() {
		return true
	}
	s.serverParked.Store(0)
	return false
}

// Unpark is S5.
func (s *Server) Unpark() { s.serverParked.Store(0) }

// Input is a slot's row of input i.
func (s *Server) Input(i int, slot uint32) []byte {
	return row(s.areas.Inputs[i], slot, s.geometry.Inputs[i].RowBytes)
}

// Output is where a slot's row of output i goes.
func (s *Server) Output(i int, slot uint32) []byte {
	return row(s.areas.Outputs[i], slot, s.geometry.Outputs[i].RowBytes)
}

func row(rows []byte, slot, bytes uint32) []byte { return rows[uint64(slot)*uint64(bytes):][:bytes] }

// Text is a submitted prompt.
func (s *Server) Text(got layout.Submission) string {
	return string(s.Input(0, got.Slot)[:got.Extent])
}

// Echo answers a submission with the checksum of its inputs, and a prompt with its text.
func (s *Server) Echo(got layout.Submission) {
	var rows [][]byte
	for i, t := range s.geometry.Inputs {
		rows = append(rows, s.Input(i, got.Slot)[:segment.CountingBytes(t, got.Extent)])
	}
	c := layout.Completion{Checksum: Checksum(rows...), Batch: 1}
	if c.Extent = got.Extent; s.isStream() {
		c.Extent = uint32(copy(s.Output(0, got.Slot)[:ReplyBytes], rows[0]))
	}
	s.Answer(got, c)
}

// Fail answers a submission with a message.
func (s *Server) Fail(got layout.Submission, status uint16, message string) {
	s.Answer(got, layout.Completion{Status: status, MessageBytes: s.say(got.Slot, message), Batch: 1})
}

func (s *Server) say(slot uint32, message string) uint32 {
	return uint32(copy(row(s.areas.Messages, slot, layout.MessageBytes), message))
}

// Answer completes a submission; its slot and request id are filled in.
func (s *Server) Answer(got layout.Submission, c layout.Completion) {
	if !s.inFlight[got.Slot] {
		panic(fmt.Sprintf("slot %d answered while not in flight", got.Slot))
	}
	s.inFlight[got.Slot] = false
	c.Slot, c.RequestID = got.Slot, got.RequestID
	s.Answered.Add(1)
	s.Publish(c)
}

// Publish publishes any completion, correct or not, and wakes the client if it sleeps: W1 to W4.
func (s *Server) Publish(c layout.Completion) {
	var encoded [layout.EntryBytes]byte
	c.Encode(encoded[:])
	s.completions.Publish(&encoded)
	if s.clientParked.Load() != 0 && s.clientParked.Swap(0) != 0 {
		s.ring()
	}
}

// PublishTurn overwrites the turn of the next completion with any number, and wakes the client if it sleeps.
func (s *Server) PublishTurn(turn uint64) {
	lane := s.geometry.Lane
	at := lane.CompletionsOffset + s.completions.Tail()%uint64(lane.CompletionEntries)*layout.EntryBytes
	must(machine.Entries(s.memory[at : at+layout.EntryBytes]))[0].Turn.Store(turn)
	if s.clientParked.Load() != 0 && s.clientParked.Swap(0) != 0 {
		s.ring()
	}
}

// Drain announces that the server is stopping. Any goroutine may call it.
func (s *Server) Drain() { s.serverState.Store(layout.ServerStateDraining) }

// Checksum is written anew from layout.md, so that the client's own is checked by it.
func Checksum(rows ...[]byte) uint64 {
	var sums [2]uint64
	var padded []byte
	for _, row := range rows {
		padded = append(append(padded, row...), make([]byte, (8-len(row)%8)%8)...)
	}
	for i := 0; i < len(padded); i += 8 {
		sums[0] += binary.LittleEndian.Uint64(padded[i:])
		sums[1] += sums[0]
	}
	return sums[0] ^ bits.RotateLeft64(sums[1], 32)
}
