// Package conformance reads the golden segments of tests/conformance with this client's own code, and finds in them
// what Python finds.
package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/ring"
	"go-shm-client/internal/segment"
)

const folder = "../../../tests/conformance/golden"

type fields map[string]json.Number

// golden is what a document says of its segment. A lane has its own fields, and where its consumers stand and what they find:
// submission_head, submissions, completion_head, completions. Tensors are the inputs, then the outputs.
type golden struct {
	Why     string
	Error   *string
	Header  fields
	Lane    map[string]json.RawMessage
	Tensors []map[string]json.RawMessage
}

func TestGoFindsWhatTheGoldenSegmentsSay(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(documents) < 20 {
		t.Fatalf("%d golden segments in %s: %v", len(documents), folder, err)
	}
	for _, document := range documents {
		t.Run(strings.TrimSuffix(filepath.Base(document), ".json"), func(t *testing.T) {
			want, memory := load(t, document)
			header := layout.DecodeHeader(memory)
			same(t, "header", header, want.Header)
			rule := ""
			geometry, err := segment.Check(memory, header.SegmentBytes, header.Epoch)
			if err != nil {
				rule = ruleOf(t, err)
			}
			same(t, "lane", layout.DecodeLane(memory[layout.HeaderLaneAt:]), plain(t, want.Lane))
			for i, tensor := range want.Tensors {
				sameTensor(t, fmt.Sprintf("tensor %d", i), layout.DecodeTensor(memory[layout.HeaderTensorsAt+i*layout.TensorBytes:]), tensor)
			}
			if err == nil { // otherwise nothing of it is to be used
				for _, broken := range []string{
					readRing(t, memory, want.Lane, "submission", &geometry),
					readRing(t, memory, want.Lane, "completion", &geometry),
				} {
					if rule == "" {
						rule = broken
					}
				}
			}
			if wanted := value(want.Error); rule != wanted {
				t.Errorf("found %q, want %q: %s", rule, wanted, want.Why)
			}
		})
	}
}

// readRing compares the entries that a consumer finds, and returns the rule that the first wrong one breaks.
func readRing(t *testing.T, memory []byte, lane map[string]json.RawMessage, kind string, g *segment.Geometry) string {
	t.Helper()
	offset, entries := g.Lane.SubmissionsOffset, g.Lane.SubmissionEntries
	if kind == "completion" {
		offset, entries = g.Lane.CompletionsOffset, g.Lane.CompletionEntries
	}
	// A heap copy: the consumer wants aligned memory, which Go gives to slices of this size.
	aligned := make([]byte, entries*layout.EntryBytes)
	copy(aligned, memory[offset:])
	var head uint64
	var want []fields
	decode(t, lane[kind+"_head"], &head)
	decode(t, lane[kind+"s"], &want)
	consumer, err := ring.NewConsumer(aligned, head)
	if err != nil {
		t.Fatal(err)
	}
	var private [layout.EntryBytes]byte
	for found := 0; ; found++ {
		if found == int(entries) {
			return "" // a whole lap
		}
		turn := (consumer.Head() + uint64(entries)) / uint64(entries)
		some, err := consumer.Take(&private)
		binary.LittleEndian.PutUint64(private[layout.SubmissionTurnAt:], turn) // Take checks it and leaves it out
		rule := ""
		switch {
		case err != nil:
			rule = ruleOf(t, err)
		case !some:
		case kind == "submission":
			rule = checkSubmission(layout.DecodeSubmission(private[:]), g)
		default:
			rule = checkCompletion(layout.DecodeCompletion(private[:]), g)
		}
		if !some || rule != "" {
			if found != len(want) {
				t.Errorf("%d %ss, want %d", found, kind, len(want))
			}
			return rule
		}
		if found >= len(want) {
			t.Fatalf("more %ss than the %d wanted", kind, len(want))
		}
		if kind == "submission" {
			same(t, kind, layout.DecodeSubmission(private[:]), want[found])
		} else {
			same(t, kind, layout.DecodeCompletion(private[:]), want[found])
		}
	}
}

func checkSubmission(s layout.Submission, g *segment.Geometry) string {
	var flags uint16
	if g.Lane.Protocol == layout.ProtocolStream {
		flags = layout.SubmissionFlagWithTemperature | layout.SubmissionFlagWithTopK | layout.SubmissionFlagWithSeed
	}
	switch {
	case s.Slot >= g.Lane.SlotCount:
		return "slot"
	case s.Op != layout.OpEcho && s.Op != layout.OpRun:
		return "op"
	case s.Flags&^flags != 0:
		return "flags"
	case s.Extent > segment.Bound(g.Inputs):
		return "extent"
	}
	return ""
}

func checkCompletion(c layout.Completion, g *segment.Geometry) string {
	last, bound := uint16(layout.StatusModelError), segment.Bound(g.Inputs)
	if g.Lane.Protocol == layout.ProtocolStream {
		last, bound = layout.StatusBroken, segment.Bound(g.Outputs)
	}
	switch {
	case c.Slot >= g.Lane.SlotCount:
		return "slot"
	case c.Status > last:
		return "status"
	case c.Extent > bound:
		return "extent"
	case c.MessageBytes > layout.MessageBytes:
		return "message"
	}
	return ""
}

// sameTensor compares a tensor, whose dims are several numbers.
func sameTensor(t *testing.T, what string, got layout.Tensor, want map[string]json.RawMessage) {
	t.Helper()
	var dims [layout.MaxRank]uint32
	decode(t, want["dims"], &dims)
	if got.Dims != dims {
		t.Errorf("%s.dims is %v, want %v", what, got.Dims, dims)
	}
	numbers := fields{}
	for name, raw := range want {
		if name != "dims" {
			var number json.Number
			decode(t, raw, &number)
			numbers[name] = number
		}
	}
	same(t, what, struct {
		Offset                   uint64
		RowBytes                 uint32
		Datatype, Rank, Symbolic uint16
	}{got.Offset, got.RowBytes, got.Datatype, got.Rank, got.Symbolic}, numbers)
}

// same compares a decoded struct with the fields of the same names.
func same(t *testing.T, what string, got any, want fields) {
	t.Helper()
	v := reflect.ValueOf(got)
	if v.NumField() != len(want) {
		t.Errorf("%s: %d fields, want %d", what, v.NumField(), len(want))
	}
	for name, number := range want {
		field := v.FieldByName(camel(name))
		if !field.IsValid() {
			t.Errorf("%s has no %s", what, name)
			continue
		}
		var equal bool
		if field.CanUint() {
			wanted, err := strconv.ParseUint(number.String(), 10, 64)
			equal = err == nil && field.Uint() == wanted
		} else {
			wanted, err := number.Float64()
			equal = err == nil && field.Float() == wanted
		}
		if !equal {
			t.Errorf("%s.%s is %v, want %v", what, name, field, number)
		}
	}
}

func camel(name string) string {
	var all strings.Builder
	for _, part := range strings.Split(name, "_") {
		switch part {
		case "id", "ns":
			all.WriteString(strings.ToUpper(part))
		default:
			all.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return all.String()
}

// plain is a lane's own fields: those of its rings are left out.
func plain(t *testing.T, lane map[string]json.RawMessage) fields {
	numbers := fields{}
	for name, raw := range lane {
		if !strings.HasSuffix(name, "_head") && name != "submissions" && name != "completions" {
			var number json.Number
			decode(t, raw, &number)
			numbers[name] = number
		}
	}
	return numbers
}

func load(t *testing.T, document string) (g golden, memory []byte) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	decode(t, text, &g)
	if memory, err = os.ReadFile(strings.TrimSuffix(document, "json") + "bin"); err != nil {
		t.Fatal(err)
	}
	return g, memory
}

func decode(t *testing.T, raw []byte, to any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(to); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
}

func ruleOf(t *testing.T, err error) string {
	t.Helper()
	var violation *fault.Violation
	if !errors.As(err, &violation) {
		t.Fatalf("%v is no violation", err)
	}
	return violation.Rule
}

func value(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
