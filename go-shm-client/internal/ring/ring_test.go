package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

func pair(t *testing.T, entries int, position uint64) (*Producer, *Consumer, []machine.Entry) {
	t.Helper()
	memory := machine.AlignedBytes(entries*layout.EntryBytes, layout.PageBytes)
	view, err := machine.Entries(memory)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProducer(memory, position)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConsumer(memory, position)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(entries) { // what a ring holds that was in use until position
		at := position + i
		view[at&c.mask].Turn.Store(c.turnBefore(at))
	}
	return p, c, view
}

// entryFor is 64 bytes that say their position in every word.
func entryFor(position uint64) (encoded [layout.EntryBytes]byte) {
	for i := 0; i < len(encoded); i += 8 {
		binary.LittleEndian.PutUint64(encoded[i:], position*8+uint64(i))
	}
	return encoded
}

func publish(p *Producer) {
	encoded := entryFor(p.Tail())
	p.Publish(&encoded)
}

func mustTake(t *testing.T, c *Consumer) {
	t.Helper()
	want := entryFor(c.Head())
	var got [layout.EntryBytes]byte
	if some, err := c.Take(&got); !some || err != nil {
		t.Fatalf("position %d: %v, %v", c.Head(), some, err)
	}
	if !bytes.Equal(got[8:], want[8:]) { // the first word is the turn's, and not copied
		t.Fatalf("position %d: took % x", c.Head()-1, got)
	}
}

func mustBeEmpty(t *testing.T, c *Consumer) {
	t.Helper()
	var got [layout.EntryBytes]byte
	if some, err := c.Take(&got); some || err != nil || !c.Empty() {
		t.Fatalf("position %d: %v, %v, empty %v", c.Head(), some, err, c.Empty())
	}
}

func turns(view []machine.Entry) string {
	var all []uint64
	for i := range view {
		all = append(all, view[i].Turn.Load())
	}
	return fmt.Sprint(all)
}

func TestTurnsTellTheLapsOfARingApart(t *testing.T) {
	p, c, view := pair(t, 4, 0)
	step := func(what, want string) {
		t.Helper()
		if got := turns(view); got != want {
			t.Fatalf("%s: turns %s, want %s", what, got, want)
		}
	}
	//   ht
	// [ 0 ][ 0 ][ 0 ][ 0 ]
	step("fresh", "[0 0 0 0]")
	mustBeEmpty(t, c)

	//   h              t
	// [ 1 ][ 1 ][ 1 ][ 0 ]
	publish(p)
	publish(p)
	publish(p)
	step("three published", "[1 1 1 0]")

	//             h    t
	// [ 1 ][ 1 ][ 1 ][ 0 ]       taking changes nothing in the ring
	mustTake(t, c)
	mustTake(t, c)
	step("two taken", "[1 1 1 0]")

	//        t    h
	// [ 2 ][ 1 ][ 1 ][ 1 ]       the tail has wrapped, the head has not
	publish(p)
	publish(p)
	step("wrapped", "[2 1 1 1]")
	mustTake(t, c)
	mustTake(t, c)

	//   h    t
	// [ 2 ][ 1 ][ 1 ][ 1 ]       the head has wrapped too, and sees its second turn
	mustTake(t, c)
	mustBeEmpty(t, c)

	//        ht
	// [ 2 ][ 2 ][ 2 ][ 2 ] + 1   full: the tail stands where the head stands
	for range 4 {
		publish(p)
	}
	step("full", "[3 2 2 2]")
	for range 4 {
		mustTake(t, c)
	}
	mustBeEmpty(t, c)
}

// With three entries placed the last one first, the consumer sees nothing before the first, and then all of them.
func TestEntriesThatArePlacedAheadAreSeenTogether(t *testing.T) {
	p, c, _ := pair(t, 4, 6) // over the end of a lap
	for lap := range 3 {
		for ahead := 2; ahead >= 0; ahead-- {
			if !c.Empty() {
				t.Fatalf("lap %d: something is there with %d to place", lap, ahead+1)
			}
			encoded := entryFor(p.Tail() + uint64(ahead))
			p.Place(ahead, &encoded)
		}
		p.Advance(3)
		for range 3 {
			mustTake(t, c)
		}
		if !c.Empty() {
			t.Fatalf("lap %d: there is more", lap)
		}
	}
}

func TestARingOfOneEntryWorks(t *testing.T) {
	p, c, _ := pair(t, 1, 0)
	for range 5 {
		mustBeEmpty(t, c)
		publish(p)
		mustTake(t, c)
	}
}

func TestPositionsWrapAt2To64(t *testing.T) {
	//   position  2^64-6  -5  -4  -3  -2  -1   0   1   2   3     N = 4; M = 2^62
	//   before       M-2 M-2 M-1 M-1 M-1 M-1   0   0   0   0     = p / 4
	//   turn         M-1 M-1   0   0   0   0   1   1   1   1     = ((p + 4) mod 2^64) / 4
	p, c, view := pair(t, 4, ^uint64(5))
	const m = uint64(1) << 62
	if got, want := turns(view), fmt.Sprint([]uint64{m - 1, m - 1, m - 2, m - 2}); got != want {
		t.Fatalf("turns %s, want %s", got, want)
	}
	for range 10 {
		mustBeEmpty(t, c)
		publish(p)
		mustTake(t, c)
	}
	if p.Tail() != 4 || turns(view) != "[1 1 1 1]" {
		t.Fatalf("tail %d, turns %s", p.Tail(), turns(view))
	}
}

func TestATurnNeitherOldNorNewIsABrokenProducer(t *testing.T) {
	for _, position := range []uint64{0, 5, 1 << 40, ^uint64(2)} {
		_, c, view := pair(t, 4, position)
		old, new := c.turnBefore(position), c.turn(position)
		for _, bad := range []uint64{old - 1, new + 1, old ^ 1<<63, ^uint64(0), 12345} {
			if bad == old || bad == new {
				continue
			}
			view[position&3].Turn.Store(bad)
			var got [layout.EntryBytes]byte
			some, err := c.Take(&got)
			var violation *fault.Violation
			if some || !errors.As(err, &violation) || violation.Rule != "turn" || !errors.Is(err, fault.Protocol) {
				t.Errorf("position %d, turn %d: %v, %v", position, bad, some, err)
			}
			if c.Empty() {
				t.Errorf("position %d, turn %d: passes for empty", position, bad)
			}
			if c.Head() != position {
				t.Errorf("position %d: moved on to %d", position, c.Head())
			}
		}
	}
}

func TestWhatWasTakenIsNotChangedByTheProducer(t *testing.T) {
	p, c, view := pair(t, 2, 0)
	publish(p)
	want := entryFor(0)
	var got [layout.EntryBytes]byte
	if some, _ := c.Take(&got); !some {
		t.Fatal("nothing taken")
	}
	for i := range view[0].Fields {
		view[0].Fields[i] = 0xff // a producer that writes on after it has published
	}
	if !bytes.Equal(got[8:], want[8:]) {
		t.Error("the copy changed")
	}
}

func TestARingMustBeAPowerOfTwoOfAlignedEntries(t *testing.T) {
	memory := machine.AlignedBytes(8*layout.EntryBytes, layout.PageBytes)
	for name, bad := range map[string][]byte{
		"empty":         nil,
		"three entries": memory[:3*layout.EntryBytes],
		"half an entry": memory[:layout.EntryBytes/2],
		"unaligned":     memory[8 : 8+2*layout.EntryBytes],
	} {
		if _, err := NewProducer(bad, 0); !errors.Is(err, fault.Protocol) {
			t.Errorf("producer, %s: %v", name, err)
		}
		if _, err := NewConsumer(bad, 0); !errors.Is(err, fault.Protocol) {
			t.Errorf("consumer, %s: %v", name, err)
		}
	}
}

func TestEveryByteArrivesBetweenTwoGoroutines(t *testing.T) {
	const entries, total = 8, 20000
	p, c, _ := pair(t, entries, ^uint64(total/2)) // through 2^64 on the way
	taken := make(chan struct{}, entries)         // the slots: they are what keeps a ring from overflowing
	for range entries {
		taken <- struct{}{}
	}
	go func() {
		for range total {
			<-taken
			publish(p)
		}
	}()
	for range total {
		for c.Empty() {
			runtime.Gosched()
		}
		mustTake(t, c)
		taken <- struct{}{}
	}
	mustBeEmpty(t, c)
}

func TestPublishAndTakeAllocateNothing(t *testing.T) {
	p, c, _ := pair(t, 4, 0)
	var encoded, got [layout.EntryBytes]byte
	if n := testing.AllocsPerRun(1000, func() {
		p.Publish(&encoded)
		if some, err := c.Take(&got); !some || err != nil {
			t.Fatal(some, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
