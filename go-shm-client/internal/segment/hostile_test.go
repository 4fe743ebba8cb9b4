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
	goodSize  = 0x7000
	goodEpoch = 0x1122334455667788
	lane      = 128 // where the lane begins
	input     = 256 // where the first tensor does, the input
	output    = 320
)

// goodHeader is a header written by hand: nothing of it comes from the code that is tested.
func goodHeader() []byte {
	page := make([]byte, goodSize)
	put := func(at int, literal ...byte) { copy(page[at:], literal) }
	put(0, 'S', 'T', 'E', 'N', 'S', 'O', 'R', '1')          // magic
	put(8, 2, 0)                                            // layout_major
	put(10, 7, 0)                                           // layout_minor: a newer one, to be ignored
	put(12, 0, 0x10, 0, 0)                                  // header_bytes: 4096
	put(16, 0, 0x70, 0, 0, 0, 0, 0, 0)                      // segment_bytes: 0x7000
	put(24, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11) // epoch
	put(32, 0, 0, 0, 0, 0, 0, 0, 0)                         // features_required: none
	put(40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // features_optional: all, to be ignored
	put(lane+0, 1, 0, 0, 0)                                 // protocol: call
	put(lane+4, 2, 0, 0, 0)                                 // slot_count
	put(lane+8, 2, 0, 0, 0)                                 // submission_entries
	put(lane+12, 4, 0, 0, 0)                                // completion_entries
	put(lane+16, 1, 0, 0, 0)                                // input_count
	put(lane+20, 1, 0, 0, 0)                                // output_count
	put(lane+24, 0, 0x10, 0, 0, 0, 0, 0, 0)                 // submissions_offset: page 1
	put(lane+32, 0, 0x20, 0, 0, 0, 0, 0, 0)                 // completions_offset: page 2
	put(lane+40, 0, 0x30, 0, 0, 0, 0, 0, 0)                 // messages_offset: page 3
	put(input+0, 0, 0x40, 0, 0, 0, 0, 0, 0)                 // input: offset: pages 4 and 5
	put(input+8, 0, 0x0c, 0, 0)                             // input: row_bytes: 3072
	put(input+12, 2, 0)                                     // input: datatype: uint8
	put(input+14, 3, 0)                                     // input: rank
	put(input+32, 3, 0, 0, 0, 32, 0, 0, 0, 32, 0, 0, 0)     // input: dims: 3, 32, 32
	put(output+0, 0, 0x60, 0, 0, 0, 0, 0, 0)                // output: offset: page 6
	put(output+8, 64, 0, 0, 0)                              // output: row_bytes
	put(output+12, 12, 0)                                   // output: datatype: fp32
	put(output+14, 1, 0)                                    // output: rank
	put(output+32, 10, 0, 0, 0)                             // output: dims: 10
	put(384, 0xde, 0xad, 0xbe, 0xef)                        // a tensor beyond the counts: not looked at
	put(2048, 1, 0, 0, 0)                                   // server_parked: any state will do
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
	{"major 1", 8, []byte{1, 0}, "version"},
	{"major 0", 8, []byte{0, 0}, "version"},
	{"header_bytes 64", 12, []byte{64, 0, 0, 0}, "geometry"},
	{"header_bytes 2^32-1", 12, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"segment_bytes other than the welcome's", 16, []byte{0, 0x80}, "geometry"},
	{"segment_bytes 2^64-1", 16, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"epoch other than the welcome's", 24, []byte{0x89}, "epoch"},
	{"epoch 0", 24, make([]byte, 8), "epoch"},
	{"a required feature", 32, []byte{1}, "features"},
	{"the highest required feature", 39, []byte{0x80}, "features"},
	{"protocol 0", lane + 0, []byte{0}, "geometry"},
	{"protocol 3", lane + 0, []byte{3}, "geometry"},
	{"protocol stream with the tensors of a call", lane + 0, []byte{2}, "geometry"},
	{"slot_count 0", lane + 4, []byte{0}, "geometry"},
	{"slot_count more than the entries", lane + 4, []byte{3}, "geometry"},
	{"slot_count 65537", lane + 4, []byte{1, 0, 1, 0}, "geometry"},
	{"slot_count 2^32-1", lane + 4, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"submission_entries 0", lane + 8, []byte{0}, "geometry"},
	{"submission_entries 3", lane + 8, []byte{3}, "geometry"},
	{"submission_entries 1 for 2 slots", lane + 8, []byte{1}, "geometry"},
	{"submission_entries 2^31", lane + 8, []byte{0, 0, 0, 0x80}, "geometry"},
	{"completion_entries 0", lane + 12, []byte{0}, "geometry"},
	{"completion_entries 6", lane + 12, []byte{6}, "geometry"},
	{"completion_entries 1 for 2 slots", lane + 12, []byte{1}, "geometry"},
	{"input_count 0", lane + 16, []byte{0}, "geometry"},
	{"input_count 2, the second of which is an output, and the output nothing", lane + 16, []byte{2}, "geometry"},
	{"input_count 24", lane + 16, []byte{24}, "geometry"},
	{"input_count 2^32-1: the sum with the outputs would wrap", lane + 16, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"output_count 0", lane + 20, []byte{0}, "geometry"},
	{"output_count 24", lane + 20, []byte{24}, "geometry"},
	{"output_count 2^32-1", lane + 20, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"submissions_offset 0: over the header", lane + 24, []byte{0, 0}, "geometry"},
	{"submissions_offset not on a page", lane + 24, []byte{0x40, 0x10}, "geometry"},
	{"submissions_offset at the completions", lane + 24, []byte{0, 0x20}, "geometry"},
	{"completions_offset in the middle of the input", lane + 32, []byte{0, 0x50}, "geometry"},
	{"completions_offset at the end of the segment", lane + 32, []byte{0, 0x70}, "geometry"},
	{"completions_offset behind the segment", lane + 32, []byte{0, 0, 1}, "geometry"},
	{"messages_offset not on a page", lane + 40, []byte{0x80, 0x30}, "geometry"},
	{"messages_offset at the output", lane + 40, []byte{0, 0x60}, "geometry"},
	{"messages_offset 2^63", lane + 40, []byte{0, 0, 0, 0, 0, 0, 0, 0x80}, "geometry"},
	{"controls_offset in a call lane", lane + 48, []byte{0, 0x70}, "geometry"},
	{"progress_offset in a call lane", lane + 56, []byte{1}, "geometry"},
	{"an input's offset that leaves the segment by a page", input + 0, []byte{0, 0x60}, "geometry"},
	{"an input's offset 2^64-4096: the sum would wrap", input + 0, []byte{0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"an input's offset inside the header", input + 0, []byte{0, 0}, "geometry"},
	{"row_bytes 0", input + 8, []byte{0, 0}, "geometry"},
	{"row_bytes a row more", input + 8, []byte{0x40, 0x0c}, "geometry"},
	{"row_bytes 3071", input + 8, []byte{0xff, 0x0b}, "geometry"},
	{"row_bytes 2^32-64", input + 8, []byte{0xc0, 0xff, 0xff, 0xff}, "geometry"},
	{"datatype 0", input + 12, []byte{0}, "geometry"},
	{"datatype 14", input + 12, []byte{14}, "geometry"},
	{"datatype 2^16-1", input + 12, []byte{0xff, 0xff}, "geometry"},
	{"datatype of 2 bytes in a row for 1", input + 12, []byte{3}, "geometry"},
	{"rank 0", input + 14, []byte{0}, "geometry"},
	{"rank 2 with a third dimension", input + 14, []byte{2}, "geometry"},
	{"rank 4 with a fourth dimension of 0", input + 14, []byte{4}, "geometry"},
	{"rank 9", input + 14, []byte{9}, "geometry"},
	{"rank 2^16-1", input + 14, []byte{0xff, 0xff}, "geometry"},
	{"symbolic 2", input + 16, []byte{2}, "geometry"},
	{"symbolic 2^16-1", input + 16, []byte{0xff, 0xff}, "geometry"},
	{"a dimension of 0", input + 36, []byte{0}, "geometry"},
	{"a dimension behind the rank", input + 60, []byte{1}, "geometry"},
	{"a first dimension of 2^32-1", input + 32, []byte{0xff, 0xff, 0xff, 0xff}, "geometry"},
	{"dimensions whose product is 3072 in 64 bits", input + 32, []byte{0, 0x0c, 0, 0, 1, 0, 0, 0x80, 1, 0, 0, 0x80}, "geometry"},
	{"an output's offset at the input's second page", output + 0, []byte{0, 0x50}, "geometry"},
	{"an output's offset 2^63", output + 0, []byte{0, 0, 0, 0, 0, 0, 0, 0x80}, "geometry"},
	{"an output's row_bytes not rounded up", output + 8, []byte{40}, "geometry"},
	{"an output's datatype 0", output + 12, []byte{0}, "geometry"},
	{"an output that is symbolic where no input is", output + 16, []byte{1}, "geometry"},
	{"an output's second dimension", output + 36, []byte{1}, "geometry"},
}

func TestAHandWrittenHeaderIsAccepted(t *testing.T) {
	memory := goodHeader()
	g, err := Check(memory, goodSize, goodEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if g.Minor != 7 || g.Epoch != goodEpoch || g.SegmentBytes != goodSize || g.Lane.SlotCount != 2 || len(g.Inputs) != 1 || len(g.Outputs) != 1 {
		t.Errorf("%+v", g)
	}
	areas := g.Slice(memory)
	for name, area := range map[string]struct {
		bytes []byte
		start int
		size  int
	}{
		"submissions": {areas.Submissions, 0x1000, 2 * 64},
		"completions": {areas.Completions, 0x2000, 4 * 64},
		"messages":    {areas.Messages, 0x3000, 2 * 256},
		"input":       {areas.Inputs[0], 0x4000, 2 * 3072},
		"output":      {areas.Outputs[0], 0x6000, 2 * 64},
	} {
		if &area.bytes[0] != &memory[area.start] || len(area.bytes) != area.size || cap(area.bytes) != area.size {
			t.Errorf("%s: %d bytes with room for %d, want %d at %#x", name, len(area.bytes), cap(area.bytes), area.size, area.start)
		}
	}
	if areas.Controls != nil || areas.Progress != nil {
		t.Error("a call lane has areas of a stream lane")
	}
	if in, out := g.Inputs[0], g.Outputs[0]; CountingBytes(in, 0) != 3072 || PartBytes(in) != 1024 || CountingBytes(out, 7) != 40 || Bound(g.Inputs) != 0 {
		t.Errorf("%d bytes in, %d a part; %d bytes out", CountingBytes(in, 0), PartBytes(in), CountingBytes(out, 7))
	}
}

func TestASymbolicDimensionHasOneBoundForAllTensors(t *testing.T) {
	memory := goodHeader()
	memory[input+16], memory[output+16] = 1, 1
	memory[output+32] = 3 // as the input's
	g, err := Check(memory, goodSize, goodEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if Bound(g.Inputs) != 3 || CountingBytes(g.Inputs[0], 2) != 2048 || CountingBytes(g.Outputs[0], 2) != 8 {
		t.Errorf("bound %d, %d bytes of 2 parts in, %d out", Bound(g.Inputs), CountingBytes(g.Inputs[0], 2), CountingBytes(g.Outputs[0], 2))
	}
	memory[output+32] = 4
	if _, err := Check(memory, goodSize, goodEpoch); !errors.Is(err, fault.Protocol) {
		t.Errorf("two bounds: %v", err)
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
	memory[8] = 1
	if _, err := Check(memory, goodSize, goodEpoch); !strings.Contains(err.Error(), "layout major 1, this client speaks 2") {
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

// goodStream is a stream lane of 2 slots, with prompts of 64 bytes and replies of 128.
func goodStream() []byte {
	memory := append(goodHeader(), make([]byte, 0x2000)...)
	put := func(at int, literal ...byte) { copy(memory[at:], literal) }
	put(16, 0, 0x90)                              // segment_bytes: 0x9000
	put(lane+0, 2)                                // protocol: stream, 2 slots, 4 completion entries
	put(lane+48, 0, 0x70)                         // controls_offset: page 7
	put(lane+56, 0, 0x80)                         // progress_offset: page 8
	put(input+8, 64, 0)                           // input: row_bytes
	put(input+14, 1, 0, 1, 0)                     // input: rank 1, symbolic
	put(input+32, 64, 0, 0, 0, 0, 0, 0, 0, 0)     // input: dims: 64
	put(output+8, 128, 0, 0, 0, 2, 0, 1, 0, 1, 0) // output: row_bytes, uint8, rank 1, symbolic
	put(output+32, 128)                           // output: dims: 128
	return memory
}

func TestAStreamLaneHasTwoCompletionsForEachSlotAndTwoAreasMore(t *testing.T) {
	memory := goodStream()
	g, err := Check(memory, 0x9000, goodEpoch)
	if err != nil {
		t.Fatal(err)
	}
	areas := g.Slice(memory)
	if len(areas.Controls) != 2*128 || len(areas.Progress) != 2*128 || &areas.Progress[0] != &memory[0x8000] {
		t.Errorf("%d bytes of controls, %d of progress", len(areas.Controls), len(areas.Progress))
	}
	if Bound(g.Inputs) != 64 || Bound(g.Outputs) != 128 {
		t.Errorf("prompts of %d bytes, replies of %d", Bound(g.Inputs), Bound(g.Outputs))
	}
	for name, spoil := range map[string]func([]byte){
		"as many completion entries as slots": func(b []byte) { b[lane+12] = 2 },
		"controls where the output is":        func(b []byte) { b[lane+49] = 0x60 },
		"controls in the header":              func(b []byte) { b[lane+49] = 0 },
		"progress behind the end":             func(b []byte) { b[lane+57] = 0x90 },
		"progress not on a page":              func(b []byte) { b[lane+56] = 128 },
		"a prompt of int8":                    func(b []byte) { b[input+12] = 6 },
		"a prompt of fixed size":              func(b []byte) { b[input+16] = 0 },
		"a reply of two dimensions":           func(b []byte) { b[output+14], b[output+36] = 2, 1 },
		"a prompt of 16 MiB and a byte":       func(b []byte) { copy(b[input+8:], []byte{64, 0, 0, 1}); copy(b[input+32:], []byte{1, 0, 0, 1}) },
		"two outputs":                         func(b []byte) { b[lane+20] = 2; copy(b[384:448], b[output:384]) },
		"two inputs": func(b []byte) {
			b[lane+16] = 2
			copy(b[384:448], b[output:384])
		},
	} {
		memory := goodStream()
		spoil(memory)
		if _, err := Check(memory, 0x9000, goodEpoch); !errors.Is(err, fault.Protocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzCheck: whatever a header says, what is accepted can be cut out of memory, and no two areas share a byte.
func FuzzCheck(f *testing.F) {
	f.Add(goodHeader()[:layout.HeaderBytes])
	f.Add(goodStream()[:layout.HeaderBytes])
	for _, hostile := range hostileHeaders {
		header := goodHeader()[:layout.HeaderBytes]
		copy(header[hostile.at:], hostile.literal)
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		memory := make([]byte, 0x9000)
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
		areas := g.Slice(memory)
		all := append([][]byte{areas.Submissions, areas.Completions, areas.Messages, areas.Controls, areas.Progress}, append(areas.Inputs, areas.Outputs...)...)
		for _, area := range all {
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
		for i, tensor := range append(g.Inputs, g.Outputs...) {
			if n := CountingBytes(tensor, Bound(g.Inputs)); g.Lane.Protocol == layout.ProtocolCall && (n < 1 || n > int(tensor.RowBytes)) {
				t.Fatalf("tensor %d: %d bytes count in a row of %d", i, n, tensor.RowBytes)
			}
		}
	})
}
