package doorbell

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/peer"
)

// questionBytes is how long the question is.
const questionBytes = layout.FrameBytes + len(QuestionModels)

func answerMessage(text string) []byte {
	message := []byte{
		'S', 'T', 'B', '1', // magic
		6, 0, // kind: answer
		0, 0, // reserved
		0, 0, 0, 0, // body_bytes: below
		0, 0, 0, 0, // reserved
	}
	binary.LittleEndian.PutUint32(message[8:], uint32(len(text)))
	return append(message, text...)
}

func TestAQuestionIsAskedAndItsAnswerMayComeInPieces(t *testing.T) {
	asked := make(chan []byte, 1)
	path := serveFirst(t, 0, func(conn *net.UnixConn) {
		question := make([]byte, questionBytes)
		_, _ = io.ReadFull(conn, question)
		asked <- question
		for _, b := range answerMessage(` ["größe"] `) {
			_, _ = conn.Write([]byte{b})
		}
	})
	answer, err := Ask(context.Background(), path, peer.Trust{}, QuestionModels)
	if err != nil || string(answer) != ` ["größe"] ` {
		t.Errorf("%q, %v", answer, err)
	}
	want := []byte{
		'S', 'T', 'B', '1', // magic
		5, 0, // kind: question
		0, 0, // reserved
		6, 0, 0, 0, // body_bytes
		0, 0, 0, 0, // reserved
		'm', 'o', 'd', 'e', 'l', 's',
	}
	if got := <-asked; string(got) != string(want) {
		t.Errorf("% x\nwant\n% x", got, want)
	}
}

func TestAnAnswerMayBeAsLongAsAMessage(t *testing.T) {
	text := fmt.Sprintf("[%*s]", layout.MaxFrameBody-2, "")
	path := serveFirst(t, questionBytes, func(conn *net.UnixConn) { _, _ = conn.Write(answerMessage(text)) })
	if answer, err := Ask(context.Background(), path, peer.Trust{}, QuestionModels); err != nil || string(answer) != text {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}

func TestHostileAnswersAreRejectedAndLeakNoDescriptor(t *testing.T) {
	with := func(at int, literal ...byte) []byte {
		message := answerMessage("[]")
		copy(message[at:], literal)
		return message
	}
	cases := []hostile{ // nobody asked for descriptors
		{"an HTTP server", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), 3, "magic"},
		{"a body of 64 KiB and a byte", with(8, 1, 0, 1, 0), 3, "frame"},
		{"a body of 4 GiB", with(8, 0xff, 0xff, 0xff, 0xff), 3, "frame"},
		{"a welcome instead", with(4, 2), 3, "frame"},
		{"a kind that there is not", with(4, 77), 3, "frame"},
		{"a body longer than what comes", with(8, 3), 3, ""},
		{"half a frame head", answerMessage("")[:7], 3, ""},
		{"nothing at all", nil, 3, ""},
		{"no JSON", answerMessage("models"), 3, "answer"},
		{"an empty answer", answerMessage(""), 3, "answer"},
		{"JSON cut short", answerMessage(`[{"name": "m"`), 3, "answer"},
		{"something behind the JSON", answerMessage("[] []"), 3, "answer"},
		{"what is no UTF-8", answerMessage("[\"\xff\"]"), 3, "answer"},
		{"a refusal of 4 bytes", []byte{'S', 'T', 'B', '1', 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 3, "frame"},
	}
	first := func(t *testing.T, behave func(*net.UnixConn)) string { return serveFirst(t, questionBytes, behave) }
	mustBeRejected(t, cases, first, func(path string) error {
		_, err := Ask(context.Background(), path, peer.Trust{}, QuestionModels)
		return err
	})
}

func TestAQuestionThatIsRefusedSaysWhy(t *testing.T) {
	path := serveFirst(t, questionBytes, send([]byte{
		'S', 'T', 'B', '1', 3, 0, 0, 0, 8 + 3, 0, 0, 0, 0, 0, 0, 0, // frame: kind refusal, 11 bytes
		3, 0, 0, 0, // reason: malformed
		3, 0, 0, 0, // message_bytes
		'w', 'h', 'y',
	}, 0))
	_, err := Ask(context.Background(), path, peer.Trust{}, QuestionModels)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != layout.ReasonMalformed || !strings.Contains(err.Error(), "question to shm-server at "+path+": ") {
		t.Error(err)
	}
}

func TestAskingEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	path := serveFirst(t, questionBytes, func(conn *net.UnixConn) {
		close(asked)
		_, _ = io.Copy(io.Discard, conn) // until the client hangs up
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	if _, err := Ask(ctx, path, peer.Trust{}, QuestionModels); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	nobody := filepath.Join(t.TempDir(), "nobody")
	if _, err := Ask(context.Background(), nobody, peer.Trust{}, QuestionModels); !errors.Is(err, fault.ServerGone) {
		t.Errorf("where nobody listens: %v", err)
	}
}

func TestTheModelsAreWhatTheAnswerSaysFieldByField(t *testing.T) {
	const good = `[{"name": "m", "version": "1", "platform": "p", "protocol": "call", "state": "ready", "new": 1,` +
		` "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [{"name": "y", "datatype": "BOOL", "shape": [1]}]}]`
	models, err := DecodeModels([]byte(good))
	if err != nil || len(models) != 1 {
		t.Fatal(models, err)
	}
	m := models[0]
	if m.Version != "1" || m.Platform != "p" || m.Protocol != "call" || m.State != "ready" || m.String() != `"m" ("x" FP32 [-1 4]) -> ("y" BOOL [1])` {
		t.Errorf("%+v", m)
	}
	if models, err := DecodeModels([]byte("[]")); err != nil || len(models) != 0 {
		t.Error("of a server without models:", models, err)
	}
	tensors := slices.Repeat([]string{`{"name": "x", "datatype": "FP32", "shape": [1]}`}, layout.MaxTensors)
	for name, c := range map[string]struct{ old, hostile, says string }{
		"no list":                      {good, `{"name": "m"}`, "no list of models"},
		"null":                         {good, "null", "no list of models"},
		"a list of texts":              {good, `["m"]`, "no list of models"},
		"a model that is null":         {good, "[null]", "model 0: a name of 0 bytes"},
		"a name that is empty":         {`"m"`, `""`, "model 0: a name of 0 bytes, expected 1 to 255"},
		"a name that is too long":      {`"m"`, `"` + strings.Repeat("m", 256) + `"`, "a name of 256 bytes"},
		"a name that is a number":      {`"m"`, "1", "no list of models"},
		"a version that is a number":   {`"1"`, "1", "no list of models"},
		"another protocol":             {`"call"`, `"shout"`, `protocol "shout", expected call or stream`},
		"no protocol":                  {`"protocol"`, `"protocols"`, `protocol ""`},
		"another state":                {`"ready"`, `"asleep"`, `state "asleep", expected ready, starting or not answering`},
		"no inputs":                    {`"inputs"`, `"takes"`, "0 inputs and 1 outputs"},
		"no outputs":                   {`"outputs"`, `"gives"`, "1 inputs and 0 outputs"},
		"too many tensors":             {`"inputs": [`, `"inputs": [` + strings.Join(tensors, ",") + ",", "25 inputs and 1 outputs, expected 1 or more of each, 24 together"},
		"a tensor without a name":      {`"x"`, `""`, "a tensor without a name"},
		"two tensors of a name":        {`"y"`, `"x"`, `two tensors are named "x"`},
		"a datatype that there is not": {`"FP32"`, `"FP31"`, `"x" FP31 [-1 4]: there is no such datatype`},
		"no shape":                     {`"shape": [1]`, `"shape": []`, `tensor "y" BOOL []: expected 1 to 8 dimensions`},
		"nine dimensions":              {`"shape": [1]`, `"shape": [1,1,1,1,1,1,1,1,1]`, "expected 1 to 8 dimensions"},
		"a dimension of 0":             {"[1]", "[0]", "of 1 or more, or -1 for the first"},
		"a dimension of -2":            {"[1]", "[-2]", "of 1 or more"},
		"symbolic where it counts":     {"[-1, 4]", "[4, -1]", "-1 for the first"},
		"a shape of fractions":         {"[1]", "[0.5]", "no list of models"},
		"a dimension beyond any int":   {"[1]", "[9223372036854775808]", "no list of models"},
	} {
		hostile := strings.Replace(good, c.old, c.hostile, 1)
		var violation *fault.Violation
		if _, err := DecodeModels([]byte(hostile)); hostile == good || !errors.As(err, &violation) || violation.Rule != "answer" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
