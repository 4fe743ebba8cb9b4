// Package session is one connection's life: claim a slot, publish it, wait for its completion, release it.
//
//	slot, err := lane.Claim(ctx, 1)                    // a slot is a number; its bytes are lane.Input(i, slot, 1)
//	err = lane.Do(ctx, slot, []layout.Submission{{Op: layout.OpRun}})
//	completion, err := lane.Result(slot)
//	lane.Release(slot)                                 // but after fault.Quarantined: then the lane does
//
// n neighbouring slots are claimed, submitted and waited for in the same way, and a batch is seen by the server as one.
// A prompt's text is read while it grows, see Stream.
//
// Lane works on bytes and knows no socket, so it is raced on heap memory. Session puts it on a mapping and connects
// it to a doorbell.
package session

import (
	"sync"
	"sync/atomic"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/ring"
	"go-shm-client/internal/segment"
)

// apart keeps what different goroutines write off each other's cache lines.
type apart [layout.LineBytes]byte

// Lane is the client's side of one lane. Its methods may be called from any goroutine.
type Lane struct {
	memory   []byte           // all of the segment
	geometry segment.Geometry // private copy, checked
	areas    segment.Areas
	calls    []call        // one for each slot
	streams  []streamWords // one for each slot of a stream lane
	words    headerWords
	hooks    Hooks
	counters *Counters
	spinner  spinner

	free *freeSlots

	_           apart
	submitting  sync.Mutex
	submissions *ring.Producer // guarded by submitting
	sealed      bool           // guarded by submitting: the lane has ended, nothing is published any more

	_           apart
	reaping     atomic.Bool    // the reaper role is taken, see reap.go
	completions *ring.Consumer // guarded by the role
	poisoned    bool           // guarded by the role: the server broke the protocol, nothing more is read

	_       apart
	waiters atomic.Int64 // calls that nobody polls for: asleep, about to be, or abandoned

	_            apart
	reader       atomic.Int64  // who reads the doorbell, see reader.go
	bellsRead    atomic.Uint64 // times that callers read a bell
	readerCalled chan struct{} // calls the background reader

	_       apart
	ending  atomic.Bool   // the role is wanted by End: whoever has it leaves soon, nobody else takes it
	ended   atomic.Bool   // failure is set; whoever claims a slot from now on touches nothing
	left    atomic.Bool   // we hung up, or are about to: see Intact
	over    chan struct{} // closed with ended
	failure error         // why the lane ended
}

// headerWords are the words of the header that change during a session.
type headerWords struct{ serverParked, clientParked, serverState *atomic.Uint32 }

// Door is the doorbell: doorbell.Doorbell says more.
type Door interface {
	Ring()                        // wakes the server; does not block
	Wait() (bells int, over bool) // waits; one goroutine at a time
	Interrupt()                   // makes Wait return 0 soon
}

// Hooks connect a lane to its surroundings.
type Hooks struct {
	Door   Door
	Broken func(error) // the server broke the protocol: make somebody call End
	Unmap  func()      // nobody touches the memory any more; called once, after End

	ClockAhead int64 // the server's clock less ours
}

// NewLane opens the fresh lane of the segment in memory, of which segment.Check made geometry. spin is how long a call polls
// for its completion before it sleeps.
func NewLane(memory []byte, geometry segment.Geometry, spin time.Duration, hooks Hooks, counters *Counters) (*Lane, error) {
	areas := geometry.Slice(memory)
	l := &Lane{
		memory:       memory,
		geometry:     geometry,
		areas:        areas,
		calls:        make([]call, geometry.Lane.SlotCount),
		hooks:        hooks,
		counters:     counters,
		free:         newFreeSlots(int(geometry.Lane.SlotCount)),
		over:         make(chan struct{}),
		readerCalled: make(chan struct{}, 1),
	}
	l.spinner.start(spin)
	for slot := range l.calls {
		l.calls[slot].wake = make(chan struct{}, 1)
	}
	var err error
	if l.submissions, err = ring.NewProducer(areas.Submissions, 0); err != nil {
		return nil, err
	}
	if l.completions, err = ring.NewConsumer(areas.Completions, 0); err != nil {
		return nil, err
	}
	if l.streams, err = openStreamWords(areas); err != nil {
		return nil, err
	}
	l.words, err = openHeaderWords(memory)
	return l, err
}

func openHeaderWords(memory []byte) (words headerWords, err error) {
	for _, word := range []struct {
		offset int
		target **atomic.Uint32
	}{
		{layout.HeaderServerParkedAt, &words.serverParked},
		{layout.HeaderClientParkedAt, &words.clientParked},
		{layout.HeaderServerStateAt, &words.serverState},
	} {
		if *word.target, err = machine.Word32(memory, word.offset); err != nil {
			return headerWords{}, fault.Violated("geometry", "header: %v", err)
		}
	}
	return words, nil
}
