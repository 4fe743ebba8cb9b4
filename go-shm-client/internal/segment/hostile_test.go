package segment

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

const (
	goodSize  = 0x6000
	goodEpoch = 0x1122334455667788
)

// goodHeader is a header written by hand: nothing of it comes from the code that is tested.
func goodHeader() []byte {
	page := make([]byte, goodSize)
	put := func(at int, literal ...byte) { copy(page[at:], literal) }
	put(0, 'S', 'T', 'E', 'N', 'S', 'O', 'R', '1')          // magic
	put(8, 1, 0)                                            // layout_major
	put(10, 7, 0)                                           // layout_minor: a newer one, to be ignored
	put(12, 0, 0x10, 0, 0)                                  // header_bytes: 4096
	put(16, 0, 0x60, 0, 0, 0, 0, 0, 0)                      // segment_bytes: 0x6000
	put(24, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11) // epoch
	put(32, 0, 0, 0, 0, 0, 0, 0, 0)                         // features_required: none
	put(40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // features_optional: all, to be ignored
	put(48, 1, 0, 0, 0)                                     // lane_count
	put(128+0, 1, 0, 0, 0)                                  // lane 0: kind: image
	put(128+4, 2, 0, 0, 0)                                  // lane 0: slot_count
	put(128+8, 0, 0x0c, 0, 0)                               // lane 0: slot_bytes: 3072
	put(128+12, 0, 1, 0, 0)                                 // lane 0: reply_bytes: 256
	put(128+16, 2, 0, 0, 0)                                 // lane 0: submission_entries
	put(128+20, 4, 0, 0, 0)                                 // lane 0: completion_entries
	put(128+24, 0, 0x10, 0, 0, 0, 0, 0, 0)                  // lane 0: submissions_offset: page 1
	put(128+32, 0, 0x20, 0, 0, 0, 0, 0, 0)                  // lane 0: completions_offset: page 2
	put(128+40, 0, 0x30, 0, 0, 0, 0, 0, 0)                  // lane 0: slots_offset: pages 3 and 4
	put(128+48, 0, 0x50, 0, 0, 0, 0, 0, 0)                  // lane 0: replies_offset: page 5
	put(2048, 1, 0, 0, 0)                                   // server_parked: any state will do
	put(256, 0xde, 0xad, 0xbe, 0xef)                        // beyond lane_count: not looked at
	return page
}

var hostileHeaders = []struct {
	name    string
	at      int
	literal []byte
	rule    string
}{
	{"magic of something else", 0, []byte("\x7fELF\x02\x01\x01\x00"), "magic"},
	{"magic all zero", 0, make([]byte, 8), "magic"},
	{"major 2", 8, []byte{2, 0}, "version"},
	{"major 0", 8, []byte{0, 0}, "version"},
	{"header_bytes 64", 12, []byte{64, 0, 0, 0}, "geometry"},
	{"header_bytes 2^32-1", 12, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"segment_bytes other than the welcome's", 16, []byte{0, 0x70}, "geometry"},
	{"segment_bytes 2^64-1", 16, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"epoch other than the welcome's", 24, []byte{0x89}, "epoch"},
	{"epoch 0", 24, make([]byte, 8), "epoch"},
	{"a required feature", 32, []byte{1}, "features"},
	{"the highest required feature", 39, []byte{0x80}, "features"},
	{"lane_count 0", 48, []byte{0}, "geometry"},
	{"lane_count 9", 48, []byte{9}, "geometry"},
	{"lane_count 2^32-1", 48, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"lane_count 2, the second all zero but for what is there", 48, []byte{2}, "geometry"},
	{"slot_count 0", 128 + 4, []byte{0}, "geometry"},
	{"slot_count more than the entries", 128 + 4, []byte{3}, "geometry"},
	{"slot_count 65537", 128 + 4, []byte{1, 0, 1, 0}, "geometry"},
	{"slot_count 2^32-1", 128 + 4, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"slot_bytes 0", 128 + 8, []byte{0, 0, 0, 0}, "geometry"},
	{"slot_bytes 3136 in an image lane", 128 + 8, []byte{0x40, 0x0c}, "geometry"},
	{"slot_bytes 3073", 128 + 8, []byte{1, 0x0c}, "geometry"},
	{"slot_bytes 2^32-64", 128 + 8, []byte{0xc0, 0xff, 0xff, 0xff}, "geometry"},
	{"reply_bytes 64", 128 + 12, []byte{64, 0}, "geometry"},
	{"reply_bytes 2^32-128", 128 + 12, []byte{0x80, 0xff, 0xff, 0xff}, "geometry"},
	{"submission_entries 0", 128 + 16, []byte{0}, "geometry"},
	{"submission_entries 3", 128 + 16, []byte{3}, "geometry"},
	{"submission_entries 1 for 2 slots", 128 + 16, []byte{1}, "geometry"},
	{"submission_entries 2^31", 128 + 16, []byte{0, 0, 0, 0x80}, "geometry"},
	{"completion_entries 0", 128 + 20, []byte{0}, "geometry"},
	{"completion_entries 6", 128 + 20, []byte{6}, "geometry"},
	{"completion_entries 1 for 2 slots", 128 + 20, []byte{1}, "geometry"},
	{"submissions_offset 0: over the header", 128 + 24, []byte{0, 0}, "geometry"},
	{"submissions_offset not on a page", 128 + 24, []byte{0x40, 0x10}, "geometry"},
	{"submissions_offset at the completions", 128 + 24, []byte{0, 0x20}, "geometry"},
	{"completions_offset in the middle of the slots", 128 + 32, []byte{0, 0x40}, "geometry"},
	{"completions_offset at the end of the segment", 128 + 32, []byte{0, 0x60}, "geometry"},
	{"completions_offset behind the segment", 128 + 32, []byte{0, 0, 1}, "geometry"},
	{"slots_offset that leaves the segment by a page", 128 + 40, []byte{0, 0x50}, "geometry"},
	{"slots_offset 2^64-4096: the sum would wrap", 128 + 40, []byte{0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"replies_offset at the slots' second page", 128 + 48, []byte{0, 0x40}, "geometry"},
	{"replies_offset 2^63", 128 + 48, []byte{0, 0, 0, 0, 0, 0, 0, 0x80}, "geometry"},
}

func TestAHandWrittenHeaderIsAccepted(t *testing.T) {
	memory := goodHeader()
	g, err := Check(memory, goodSize, goodEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if g.Minor != 7 || g.Epoch != goodEpoch || g.SegmentBytes != goodSize || len(g.Lanes) != 1 {
		t.Errorf("%+v", g)
	}
	areas, lane, err := g.Slice(memory, layout.LaneKindImage)
	if err != nil || lane.SlotCount != 2 {
		t.Fatalf("%+v, %v", lane, err)
	}
	for name, area := range map[string]struct {
		bytes []byte
		start int
		size  int
	}{
		"submissions": {areas.Submissions, 0x1000, 2 * 64},
		"completions": {areas.Completions, 0x2000, 4 * 64},
		"slots":       {areas.Slots, 0x3000, 2 * 3072},
		"replies":     {areas.Replies, 0x5000, 2 * 256},
	} {
		if &area.bytes[0] != &memory[area.start] || len(area.bytes) != area.size || cap(area.bytes) != area.size {
			t.Errorf("%s: %d bytes with room for %d, want %d at %#x", name, len(area.bytes), cap(area.bytes), area.size, area.start)
		}
	}
	if _, _, err := g.Slice(memory, layout.LaneKindPrompt); !errors.Is(err, fault.Protocol) {
		t.Errorf("a lane that is not there: %v", err)
	}
}

func TestHostileHeadersAreRejectedWithTheRuleThatTheyBreak(t *testing.T) {
	for _, hostile := range hostileHeaders {
		memory := goodHeader()
		copy(memory[hostile.at:], hostile.literal)
		_, err := Check(memory, goodSize, goodEpoch)
		var violation *fault.Violation
		if !errors.As(err, &violation) || violation.Rule != hostile.rule || !errors.Is(err, fault.Protocol) {
			t.Errorf("%s: %v, want %q", hostile.name, err, hostile.rule)
		}
	}
}

func TestAVersionErrorNamesBothVersions(t *testing.T) {
	memory := goodHeader()
	memory[8] = 2
	if _, err := Check(memory, goodSize, goodEpoch); !strings.Contains(err.Error(), "layout major 2, this client speaks 1") {
		t.Error(err)
	}
}

func TestASegmentSmallerThanItsHeaderSaysIsRejected(t *testing.T) {
	memory := goodHeader()
	for _, size := range []int{0, 1, layout.HeaderBytes - 1, layout.HeaderBytes, goodSize - 1} {
		if _, err := Check(memory[:size], goodSize, goodEpoch); !errors.Is(err, fault.Protocol) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestTwoLanesOfAKindAreRejected(t *testing.T) {
	memory := goodHeader()
	memory[48] = 2
	copy(memory[256:384], memory[128:256])
	if _, err := Check(memory, goodSize, goodEpoch); err == nil || !strings.Contains(err.Error(), "both of kind 1") {
		t.Error(err)
	}
}

func TestAPromptLaneHasTwoCompletionsForEachSlotAndTwoAreasMore(t *testing.T) {
	good := func() []byte {
		memory := append(goodHeader(), make([]byte, 0x2000)...)
		memory[17] = 0x80                         // segment_bytes: 0x8000
		memory[128] = layout.LaneKindPrompt       // 2 slots, 4 completion entries
		copy(memory[128+56:], []byte{0, 0x60, 0}) // controls_offset: page 6
		copy(memory[128+64:], []byte{0, 0x70, 0}) // progress_offset: page 7
		return memory
	}
	memory := good()
	g, err := Check(memory, 0x8000, goodEpoch)
	if err != nil {
		t.Fatal(err)
	}
	areas, _, err := g.Slice(memory, layout.LaneKindPrompt)
	if err != nil || len(areas.Controls) != 2*128 || len(areas.Progress) != 2*128 || &areas.Progress[0] != &memory[0x7000] {
		t.Errorf("%d bytes of controls, %d of progress, %v", len(areas.Controls), len(areas.Progress), err)
	}
	for name, spoil := range map[string]func([]byte){
		"as many completion entries as slots": func(b []byte) { b[128+20] = 2 },
		"controls where the replies are":      func(b []byte) { b[128+57] = 0x50 },
		"controls in the header":              func(b []byte) { b[128+57] = 0 },
		"progress behind the end":             func(b []byte) { b[128+65] = 0x80 },
		"progress not on a page":              func(b []byte) { b[128+64] = 128 },
	} {
		memory := good()
		spoil(memory)
		if _, err := Check(memory, 0x8000, goodEpoch); !errors.Is(err, fault.Protocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzCheck: whatever a header says, what is accepted can be cut out of memory, and no two areas share a byte.
func FuzzCheck(f *testing.F) {
	f.Add(goodHeader()[:layout.HeaderBytes])
	for _, hostile := range hostileHeaders {
		header := goodHeader()[:layout.HeaderBytes]
		copy(header[hostile.at:], hostile.literal)
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		memory := make([]byte, goodSize)
		copy(memory, header)
		size := binary.LittleEndian.Uint64(memory[layout.HeaderSegmentBytesAt:])
		epoch := binary.LittleEndian.Uint64(memory[layout.HeaderEpochAt:])
		g, err := Check(memory, size, epoch)
		if err != nil {
			if !errors.Is(err, fault.Protocol) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		used := make([]bool, len(memory))
		for _, lane := range g.Lanes {
			areas, _, err := g.Slice(memory, lane.Kind)
			if err != nil {
				t.Fatal(err)
			}
			for _, area := range [][]byte{areas.Submissions, areas.Completions, areas.Slots, areas.Replies, areas.Controls, areas.Progress} {
				if len(area) == 0 {
					continue
				}
				at := 0
				for &memory[at] != &area[0] {
					at += layout.PageBytes
				}
				for i := at; i < at+len(area); i++ {
					if used[i] || i < layout.HeaderBytes {
						t.Fatalf("byte %d is in two areas", i)
					}
					used[i] = true
				}
			}
		}
	})
}
