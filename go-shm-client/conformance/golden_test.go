// Package conformance reads the golden segments that the Python tests read too: both must find the same in them.
package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/ring"
	"go-shm-client/internal/segment"
	"go-shm-client/internal/session"
)

const folder = "../../tests/conformance/golden"

// words is a struct of the layout by field. Numbers keep their digits: a float64 cannot hold every u64.
type words map[string]json.Number

type golden struct {
	Why    string
	Error  *string
	Header words
	Lanes  []map[string]json.RawMessage
}

func TestGoldenSegmentsAreReadAsTheySay(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); err != nil && len(names) == 0 {
		t.Skip("the module was taken out of its repository: ", err)
	}
	if len(names) == 0 {
		t.Fatal("no golden segments in ", folder)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".json"), func(t *testing.T) {
			compare(t, name)
		})
	}
}

func compare(t *testing.T, name string) {
	var want golden
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&want); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(strings.TrimSuffix(name, ".json") + ".bin")
	if err != nil {
		t.Fatal(err)
	}
	memory := machine.AlignedBytes(len(content), layout.PageBytes) // where a mapping would lie
	copy(memory, content)

	header := layout.DecodeHeader(memory)
	if got := fields(header); !maps.Equal(got, want.Header) {
		t.Errorf("header\n got %v\nwant %v", got, want.Header)
	}
	found := ""
	_, err = segment.Check(memory, header.SegmentBytes, header.Epoch)
	readable := err == nil
	note(&found, err)
	for i, lane := range want.Lanes {
		decoded := layout.DecodeLane(memory[layout.HeaderLanesAt+i*layout.LaneBytes:])
		for field, got := range fields(decoded) {
			if string(lane[field]) != got.String() {
				t.Errorf("lane %d: %s is %s, want %s", i, field, got, lane[field])
			}
		}
		var submissions, completions []words
		if readable {
			submissions, err = readSubmissions(memory, decoded, number(t, lane["submission_head"]))
			note(&found, err)
			completions, err = readCompletions(memory, decoded, number(t, lane["completion_head"]))
			note(&found, err)
		}
		same(t, "submissions", submissions, lane["submissions"])
		same(t, "completions", completions, lane["completions"])
	}
	if wanted := ""; want.Error != nil && found != *want.Error || want.Error == nil && found != wanted {
		t.Errorf("%s: error %q, want %v", want.Why, found, want.Error)
	}
}

// note keeps the rule that the first violation breaks.
func note(found *string, err error) {
	var violation *fault.Violation
	if *found == "" && errors.As(err, &violation) {
		*found = violation.Rule
	}
}

func readSubmissions(memory []byte, lane layout.Lane, head uint64) ([]words, error) {
	at := memory[lane.SubmissionsOffset:][:uint64(lane.SubmissionEntries)*layout.EntryBytes]
	return readRing(at, head, func(turn uint64, private []byte) (words, error) {
		s := layout.DecodeSubmission(private)
		s.Turn = turn
		return fields(s), checkSubmission(lane, s)
	})
}

func readCompletions(memory []byte, lane layout.Lane, head uint64) ([]words, error) {
	at := memory[lane.CompletionsOffset:][:uint64(lane.CompletionEntries)*layout.EntryBytes]
	return readRing(at, head, func(turn uint64, private []byte) (words, error) {
		c := layout.DecodeCompletion(private)
		c.Turn = turn
		return fields(c), session.CheckCompletion(lane, c)
	})
}

// readRing takes what a consumer at head finds, up to the first entry that is not right.
func readRing(at []byte, head uint64, read func(turn uint64, private []byte) (words, error)) (found []words, err error) {
	consumer, err := ring.NewConsumer(at, head)
	if err != nil {
		return nil, err
	}
	entries := uint64(len(at) / layout.EntryBytes)
	for uint64(len(found)) < entries {
		turn := (consumer.Head() + entries) / entries
		var private [layout.EntryBytes]byte
		some, err := consumer.Take(&private)
		if err != nil || !some {
			return found, err
		}
		entry, err := read(turn, private[:])
		if err != nil {
			return found, err
		}
		found = append(found, entry)
	}
	return found, nil
}

// checkSubmission is what a server does; the client has no need of it.
func checkSubmission(lane layout.Lane, s layout.Submission) error {
	image := lane.Kind == layout.LaneKindImage
	flags := uint16(0)
	if s.Op == layout.OpClassify {
		flags = layout.SubmissionFlagWantScores
	}
	switch {
	case s.Slot >= lane.SlotCount:
		return fault.Violated("slot", "slot %d", s.Slot)
	case s.Op != layout.OpEcho && (s.Op != layout.OpClassify || !image) && (s.Op != layout.OpPrompt || image):
		return fault.Violated("op", "op %d", s.Op)
	case s.Flags&^flags != 0:
		return fault.Violated("flags", "flags %#x", s.Flags)
	case s.Length > lane.SlotBytes || image && s.Length != lane.SlotBytes:
		return fault.Violated("length", "%d bytes", s.Length)
	}
	return nil
}

// fields is a struct of package layout by the names of layout.md.
func fields(s any) words {
	all := make(words)
	value := reflect.ValueOf(s)
	for i := range value.NumField() {
		name := snake(value.Type().Field(i).Name)
		switch field := value.Field(i); field.Kind() {
		case reflect.Float32:
			all[name] = json.Number(strconv.FormatFloat(field.Float(), 'g', -1, 64))
		default:
			all[name] = json.Number(strconv.FormatUint(field.Uint(), 10))
		}
	}
	return all
}

// snake turns QueueNS into queue_ns and RequestID into request_id.
func snake(name string) string {
	var out strings.Builder
	for i, letter := range name {
		upper := letter >= 'A' && letter <= 'Z'
		if upper && i > 0 && !(name[i-1] >= 'A' && name[i-1] <= 'Z') {
			out.WriteByte('_')
		}
		out.WriteString(strings.ToLower(string(letter)))
	}
	return out.String()
}

func number(t *testing.T, text json.RawMessage) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func same(t *testing.T, what string, got []words, text json.RawMessage) {
	t.Helper()
	var want []words
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d %s, want %d", len(got), what, len(want))
		return
	}
	for i := range got {
		for field, value := range want[i] {
			if !equal(got[i][field], value) {
				t.Errorf("%s %d: %s is %s, want %s", what, i, field, got[i][field], value)
			}
		}
		if len(got[i]) != len(want[i]) {
			t.Errorf("%s %d: %d fields, want %d", what, i, len(got[i]), len(want[i]))
		}
	}
}

// equal compares digits, and where these differ (0.5 and 5e-1) floats.
func equal(a, b json.Number) bool {
	if a == b {
		return true
	}
	if !strings.ContainsAny(string(a)+string(b), ".e") {
		return false
	}
	x, errX := a.Float64()
	y, errY := b.Float64()
	return errX == nil && errY == nil && x == y
}

func TestNumbersKeepTheirDigits(t *testing.T) {
	if equal("18446744073709551615", "18446744073709551614") || !equal("5e-1", "0.5") {
		t.Error("compared as floats, or not at all")
	}
	if got := fmt.Sprint(snake("QueueNS"), snake("RequestID"), snake("LayoutMajor")); got != "queue_nsrequest_idlayout_major" {
		t.Error(got)
	}
}
