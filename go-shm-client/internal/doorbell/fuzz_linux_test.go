package doorbell

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"unicode/utf8"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

func mustBeTyped(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, fault.Protocol) && err != io.EOF && err != io.ErrUnexpectedEOF {
		t.Fatalf("untyped: %v", err)
	}
}

// FuzzFrame: whatever a server sends, a welcome keeps what layout.md promises of it, a reason is a line of text, and anything
// else is a typed error. No more is read than the message.
func FuzzFrame(f *testing.F) {
	f.Add(goodWelcome())
	f.Add(withMetadata(`{"server": 7}`))
	for _, kind := range []uint16{layout.FrameKindRefusal, layout.FrameKindGoodbye} {
		f.Add(encodeFrame(kind, []byte("\x0a\x00\x00\x00\x05\x00\x00\x00why\nso")))
		f.Add(encodeFrame(kind, []byte("\x0b\x00\x00\x00\xff\xff\xff\xff\xff")))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		reader := bytes.NewReader(message)
		kind, body, err := readFrame(reader)
		if mustBeTyped(t, err); err != nil {
			return
		}
		if read := len(message) - reader.Len(); read != layout.FrameBytes+len(body) || len(body) > layout.MaxFrameBody {
			t.Fatalf("read %d bytes for a body of %d", read, len(body))
		}
		if kind == layout.FrameKindWelcome {
			w, err := decodeWelcome(body)
			if mustBeTyped(t, err); err == nil && (w.Epoch == 0 || w.SegmentBytes > layout.MaxSegmentBytes) {
				t.Fatalf("%+v", w)
			}
			return
		}
		_, text, err := decodeReason(body)
		if mustBeTyped(t, err); !utf8.ValidString(text) || bytes.ContainsAny([]byte(text), "\n\r\x1b") {
			t.Fatalf("%q", text)
		}
	})
}

// FuzzModels: whatever a server answers, what is accepted is a list of models that can be.
func FuzzModels(f *testing.F) {
	f.Add([]byte(`[{"name": "m", "protocol": "call", "state": "ready", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], ` +
		`"outputs": [{"name": "y", "datatype": "BF16", "shape": [1]}]}]`))
	f.Add([]byte(`[{"name": "m", "protocol": "stream", "state": "starting", "inputs": [], "outputs": []}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		models, err := DecodeModels(answer)
		mustBeTyped(t, err)
		for _, m := range models {
			if err == nil && (m.Name == "" || len(m.Inputs) == 0 || len(m.Outputs) == 0 || m.Signature.String() == "") {
				t.Fatalf("%+v", m)
			}
		}
	})
}
