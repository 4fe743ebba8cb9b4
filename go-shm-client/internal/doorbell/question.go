package doorbell

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"unicode/utf8"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/peer"
)

// QuestionModels asks which models there are; DecodeModels reads the answer.
const QuestionModels = "models"

// Ask connects to the server at path, if it is one to trust, asks it a question instead of opening a session, and returns the
// answer, which is JSON. A question that the server does not know is a RefusedError.
func Ask(ctx context.Context, path string, trust peer.Trust, question string) ([]byte, error) {
	var answer []byte
	conn, err := connect(ctx, path, trust, "question to", func(ctx context.Context, conn *net.UnixConn) (err error) {
		answer, err = exchange(ctx, conn, encodeFrame(layout.FrameKindQuestion, []byte(question)), conn, layout.FrameKindAnswer)
		if err == nil && !(utf8.Valid(answer) && json.Valid(answer)) {
			err = fault.Violated("answer", "%d bytes that are no JSON", len(answer))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, conn.Close()
}

// ModelInfo is what the server says of one of its models where no session is opened.
type ModelInfo struct {
	Signature        // without labels
	Protocol  string `json:"protocol"` // call, or stream: one that answers prompts
	State     string `json:"state"`    // ready; starting: who wants it now is refused; not answering: it has had a batch for too long
}

// DecodeModels reads the answer to QuestionModels.
func DecodeModels(answer []byte) ([]ModelInfo, error) {
	var models []ModelInfo
	if err := json.Unmarshal(answer, &models); err != nil {
		return nil, fault.Violated("answer", "no list of models: %v", err)
	}
	if models == nil {
		return nil, fault.Violated("answer", "no list of models: null")
	}
	for i := range models {
		if err := models[i].check(); err != nil {
			return nil, fault.Violated("answer", "model %d: %v", i, err)
		}
	}
	return models, nil
}

// check is nil where a model can be as the server says without a session.
func (m *ModelInfo) check() error {
	switch {
	case m.Name == "" || len(m.Name) > layout.MaxModelNameBytes:
		return fmt.Errorf("a name of %d bytes, expected 1 to %d", len(m.Name), layout.MaxModelNameBytes)
	case m.Protocol != "call" && m.Protocol != "stream":
		return fmt.Errorf("%q: protocol %q, expected call or stream", m.Name, m.Protocol)
	case m.State != "ready" && m.State != "starting" && m.State != "not answering":
		return fmt.Errorf("%q: state %q, expected ready, starting or not answering", m.Name, m.State)
	case len(m.Inputs) == 0 || len(m.Outputs) == 0 || len(m.Inputs)+len(m.Outputs) > layout.MaxTensors:
		return fmt.Errorf("%q: %d inputs and %d outputs, expected 1 or more of each, %d together at most",
			m.Name, len(m.Inputs), len(m.Outputs), layout.MaxTensors)
	}
	seen := make(map[string]bool)
	for _, t := range slices.Concat(m.Inputs, m.Outputs) {
		switch {
		case t.Name == "":
			return fmt.Errorf("%q: a tensor without a name", m.Name)
		case seen[t.Name]:
			return fmt.Errorf("%q: two tensors are named %q", m.Name, t.Name)
		case Datatype(t.Datatype) == 0:
			return fmt.Errorf("%q: tensor %v: there is no such datatype", m.Name, t)
		case !t.hasShape():
			return fmt.Errorf("%q: tensor %v: expected 1 to %d dimensions of 1 or more, or -1 for the first", m.Name, t, layout.MaxRank)
		}
		seen[t.Name] = true
	}
	return nil
}
