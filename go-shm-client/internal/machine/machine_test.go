package machine

import (
	"math"
	"testing"
	"time"
)

func TestEntriesRefusesWhatIsNoRing(t *testing.T) {
	memory := AlignedBytes(4*EntryBytes, 4096)
	for name, bad := range map[string][]byte{
		"nothing":            nil,
		"half an entry":      memory[:EntryBytes/2],
		"an entry and a bit": memory[:EntryBytes+1],
		"unaligned":          memory[8 : 8+EntryBytes],
	} {
		if _, err := Entries(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	entries, err := Entries(memory)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	entries[1].Turn.Store(0x0807060504030201)
	entries[1].Fields[0] = 9
	for i := range 9 {
		if memory[EntryBytes+i] != byte(i+1) {
			t.Fatalf("entry 1 lies elsewhere, or is not little-endian: % x", memory[EntryBytes:EntryBytes+9])
		}
	}
}

func TestWord32RefusesWhatLiesOutsideOrAcross(t *testing.T) {
	memory := AlignedBytes(64, 64)
	for _, offset := range []int{-4, -1, 1, 2, 3, 61, 62, 63, 64, math.MaxInt, math.MinInt} {
		if _, err := Word32(memory, offset); err == nil {
			t.Errorf("offset %d: accepted", offset)
		}
	}
	if _, err := Word32(memory[:3], 0); err == nil {
		t.Error("3 bytes: accepted")
	}
	word, err := Word32(memory, 60)
	if err != nil {
		t.Fatal(err)
	}
	if word.Store(0x01020304); memory[60] != 4 {
		t.Errorf("% x", memory[60:])
	}
}

func TestAlignedBytesHasNoRoomBehindIt(t *testing.T) {
	for range 100 {
		memory := AlignedBytes(100, 4096)
		if len(memory) != 100 || cap(memory) != 100 {
			t.Fatalf("len %d cap %d", len(memory), cap(memory))
		}
		if _, err := Word32(memory, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheClockIsTheKernelsMonotonicClock(t *testing.T) {
	slack := int64(width) // the two clocks were compared by readings that lie apart
	for range 1000 {
		before := monotonic()
		now := Now()
		after := monotonic()
		if now < before-slack || now > after+slack {
			t.Fatalf("%d is not between %d and %d", now, before, after)
		}
	}
	before := Now()
	hence := At(time.Now().Add(time.Hour)) - int64(time.Hour)
	if after := Now(); hence < before || hence > after {
		t.Errorf("an hour from now is %d plus an hour, not between %d and %d", hence, before, after)
	}
	if far := At(time.Now().AddDate(1000, 0, 0)); far != math.MaxInt64 {
		t.Errorf("a deadline centuries away wraps around to %d", far)
	}
}
