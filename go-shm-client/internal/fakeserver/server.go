package fakeserver

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/ring"
)

// Server is the server's side of one lane. One goroutine calls it, except where a method says otherwise.
type Server struct {
	memory          []byte
	lane            layout.Lane
	slots, replies  []byte
	submissions     *ring.Consumer
	completions     *ring.Producer
	inFlight        []bool
	streams         []stream // of a prompt lane's slots
	serverParked    *atomic.Uint32
	clientParked    *atomic.Uint32
	serverState     *atomic.Uint32
	ring            func() // wakes the client
	Taken, Answered atomic.Int64
}

// New serves the lane in memory. ring wakes the client; it must not block.
func New(memory []byte, lane layout.Lane, ring_ func()) *Server {
	cut := func(offset, bytes uint64) []byte { return memory[offset : offset+bytes] }
	s := &Server{
		memory:       memory,
		lane:         lane,
		slots:        cut(lane.SlotsOffset, uint64(lane.SlotCount)*uint64(lane.SlotBytes)),
		replies:      cut(lane.RepliesOffset, uint64(lane.SlotCount)*uint64(lane.ReplyBytes)),
		submissions:  must(ring.NewConsumer(cut(lane.SubmissionsOffset, uint64(lane.SubmissionEntries)*layout.EntryBytes), 0)),
		completions:  must(ring.NewProducer(cut(lane.CompletionsOffset, uint64(lane.CompletionEntries)*layout.EntryBytes), 0)),
		inFlight:     make([]bool, lane.SlotCount),
		serverParked: must(machine.Word32(memory, layout.HeaderServerParkedAt)),
		clientParked: must(machine.Word32(memory, layout.HeaderClientParkedAt)),
		serverState:  must(machine.Word32(memory, layout.HeaderServerStateAt)),
		ring:         ring_,
	}
	if lane.Kind == layout.LaneKindPrompt {
		s.openStreams()
	}
	return s
}

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
	case got.Slot >= s.lane.SlotCount:
		panic(fmt.Sprintf("submission of slot %d of %d", got.Slot, s.lane.SlotCount))
	case s.inFlight[got.Slot]:
		panic(fmt.Sprintf("slot %d submitted while in flight", got.Slot))
	case got.Length > s.lane.SlotBytes || s.lane.Kind == layout.LaneKindImage && got.Length < s.lane.SlotBytes:
		panic(fmt.Sprintf("submission of %d bytes", got.Length))
	case got.Op != layout.OpEcho && got.Op != map[uint32]uint16{layout.LaneKindImage: layout.OpClassify, layout.LaneKindPrompt: layout.OpPrompt}[s.lane.Kind]:
		panic(fmt.Sprintf("submission with op %d", got.Op))
	}
	s.inFlight[got.Slot] = true
	if got.Op == layout.OpPrompt {
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

// Slot is the pixels of a submission.
func (s *Server) Slot(slot uint32) []byte {
	return s.slots[uint64(slot)*uint64(s.lane.SlotBytes):][:s.lane.SlotBytes]
}

// Reply is where the reply of a submission goes.
func (s *Server) Reply(slot uint32) []byte {
	return s.replies[uint64(slot)*uint64(s.lane.ReplyBytes):][:s.lane.ReplyBytes]
}

// Echo answers a submission with the checksum of its pixels.
func (s *Server) Echo(got layout.Submission) {
	s.Answer(got, layout.Completion{Checksum: Checksum(s.Slot(got.Slot)), Batch: 1})
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
	at := s.lane.CompletionsOffset + s.completions.Tail()%uint64(s.lane.CompletionEntries)*layout.EntryBytes
	must(machine.Entries(s.memory[at : at+layout.EntryBytes]))[0].Turn.Store(turn)
	if s.clientParked.Load() != 0 && s.clientParked.Swap(0) != 0 {
		s.ring()
	}
}

// Drain announces that the server is stopping. Any goroutine may call it.
func (s *Server) Drain() { s.serverState.Store(layout.ServerStateDraining) }

// Checksum is written anew from layout.md, so that the client's own is checked by it.
func Checksum(b []byte) uint64 {
	var sums [2]uint64
	padded := append(append([]byte(nil), b...), make([]byte, (8-len(b)%8)%8)...)
	for i := 0; i < len(padded); i += 8 {
		sums[0] += binary.LittleEndian.Uint64(padded[i:])
		sums[1] += sums[0]
	}
	return sums[0] ^ bits.RotateLeft64(sums[1], 32)
}
