// Package doorbell is the Unix socket of a session: two handshake messages, then bells, and one goodbye. Or of a question and
// its answer, without a session.
//
//	bell, welcome, fd, err := doorbell.Dial(ctx, path, trust, request)
//	bell.Ring()                     // wakes the server, never blocks
//	bells, over := bell.Wait()      // waits; over: bell.Why() says why the session ended
//
//	answer, err := doorbell.Ask(ctx, path, trust, doorbell.QuestionModels)
package doorbell

import (
	"io"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Metadata is what the server says about itself and the model, in its welcome.
type Metadata struct {
	Server string    `json:"server"`
	Model  Signature `json:"model"`
}

// A Request is the lane that a client asks for; layout.md, "Hello". What is 0 is the server's to choose.
type Request struct {
	Protocol                  uint32
	Model                     string // "" = the server's default for the protocol; at most layout.MaxModelNameBytes of UTF-8
	Slots                     uint32
	InputExtent, OutputExtent uint32
}

// encodeFrame is a frame head and its body in one piece of memory, to be sent by one write.
func encodeFrame(kind uint16, body []byte) []byte {
	message := make([]byte, layout.FrameBytes+len(body))
	layout.Frame{Magic: layout.FrameMagic, Kind: kind, BodyBytes: uint32(len(body))}.Encode(message)
	copy(message[layout.FrameBytes:], body)
	return message
}

// readFrame reads one message and not a byte more: the bytes after it are bells.
func readFrame(r io.Reader) (kind uint16, body []byte, err error) {
	var head [layout.FrameBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	return readBody(r, head)
}

func readBody(r io.Reader, head [layout.FrameBytes]byte) (kind uint16, body []byte, err error) {
	f := layout.DecodeFrame(head[:])
	if f.Magic != layout.FrameMagic {
		return 0, nil, fault.Violated("magic", "message begins with %#x, not %#x: is it a shm-server?", f.Magic, layout.FrameMagic)
	}
	if f.BodyBytes > layout.MaxFrameBody {
		return 0, nil, fault.Violated("frame", "message of %d bytes, %d allowed", f.BodyBytes, layout.MaxFrameBody)
	}
	body = make([]byte, f.BodyBytes)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return f.Kind, body, nil
}

// decodeReason reads the body of a refusal or a goodbye. A message that claims to be longer than the body is cut.
func decodeReason(body []byte) (Reason, string, error) {
	if len(body) < layout.ReasonBodyBytes {
		return 0, "", fault.Violated("frame", "reason of %d bytes, not %d", len(body), layout.ReasonBodyBytes)
	}
	r := layout.DecodeReasonBody(body)
	message := body[layout.ReasonBodyBytes:]
	return Reason(r.Reason), fault.Line(string(message[:min(uint64(len(message)), uint64(r.MessageBytes))])), nil
}
