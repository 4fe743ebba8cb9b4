package measure

import (
	"bytes"
	"context"
	"fmt"

	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

// answer is what a call brought, kept to be checked after its time was taken.
type answer struct {
	echoed   transport.Echoed
	returned transport.Returned // of Call; check releases it
	label    string
	batch    int
}

// An Op makes one call, and checks its answer outside of what is timed.
type Op struct {
	call  func(context.Context, transport.Transport, *payload.Entry) (answer, error)
	check func(*payload.Entry, answer) error
}

// Echo sends the bytes; they, or the server's checksum of them, have to come back.
var Echo = Op{
	call: func(ctx context.Context, t transport.Transport, entry *payload.Entry) (answer, error) {
		echoed, err := t.Echo(ctx, entry.Bytes)
		return answer{echoed: echoed}, err
	},
	check: func(entry *payload.Entry, got answer) error {
		if got.echoed.Bytes == nil {
			if got.echoed.Checksum != entry.Checksum {
				return fmt.Errorf("the server's checksum is %#x, not %#x", got.echoed.Checksum, entry.Checksum)
			}
		} else if !bytes.Equal(got.echoed.Bytes, entry.Bytes) {
			return fmt.Errorf("the %d bytes of the echo are not those that were sent", len(got.echoed.Bytes))
		}
		return nil
	},
}

// EchoPrompt sends 200 bytes of text: as a prompt, or where there are none as HTTP does, base64 in JSON.
var EchoPrompt = Op{
	call: func(ctx context.Context, t transport.Transport, entry *payload.Entry) (answer, error) {
		if t, ok := t.(transport.Prompter); ok {
			echoed, err := t.EchoPrompt(ctx, entry.Text)
			return answer{echoed: echoed}, err
		}
		return Echo.call(ctx, t, entry)
	},
	check: func(entry *payload.Entry, got answer) error {
		if got.echoed.Bytes != nil {
			return Echo.check(entry, got)
		}
		if got.echoed.Text != entry.Text {
			return fmt.Errorf("the echo of %q is %q", entry.Text, got.echoed.Text)
		}
		return nil
	},
}

// Call has the model of that name give a row back; where a transport knows of no models, all are an echo of any size. What it
// took to put a row where shared memory has it read does not count: whoever computes a row can do it there.
func Call(model string) Op {
	return Op{
		call: func(ctx context.Context, t transport.Transport, entry *payload.Entry) (answer, error) {
			if t, ok := t.(transport.Caller); ok {
				returned, err := t.Call(ctx, model, entry.Bytes)
				return answer{returned: returned}, err
			}
			return Echo.call(ctx, t, entry)
		},
		check: func(entry *payload.Entry, got answer) error {
			defer got.returned.Slot.Release()
			came := got.returned.Bytes
			if came == nil {
				came = got.echoed.Bytes
			}
			if entry.Bytes != nil && !bytes.Equal(came, entry.Bytes) {
				return fmt.Errorf("the %d bytes that came back are not the %d that were sent", len(came), len(entry.Bytes))
			}
			return nil
		},
	}
}

// Classify sends a picture; the label has to be the one that the engine gave in process.
var Classify = Op{
	call: func(ctx context.Context, t transport.Transport, entry *payload.Entry) (answer, error) {
		classified, err := t.Classify(ctx, entry.Bytes)
		return answer{label: classified.Label, batch: classified.Batch}, err
	},
	check: func(entry *payload.Entry, got answer) error {
		if got.label != entry.Label {
			return fmt.Errorf("labelled %q, which the engine in process labels %q", got.label, entry.Label)
		}
		return nil
	},
}
