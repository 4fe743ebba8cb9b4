//go:build linux

package shm

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

func TestAStreamsReplySaysHowItEnded(t *testing.T) {
	f := startFake(t, 2)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		s.Append(got, "to be, ")
		s.Append(got, "or not")
		switch s.Text(got) {
		case "cut":
			s.Answer(got, layout.Completion{Flags: layout.CompletionFlagTruncated, Extent: 13, Batch: 1, QueueNS: 3000, ModelNS: 5000})
		case "broken":
			s.Finish(got, layout.StatusBroken, "it broke")
		default:
			s.Finish(got, layout.StatusOK, "")
		}
	}
	client := dialFake(t, f)
	for _, c := range []struct {
		prompt    string
		truncated bool
		fails     error
	}{{"whole", false, nil}, {"cut", true, nil}, {"broken", false, ErrBroken}} {
		reply := Reply{Text: "of the call before", Truncated: !c.truncated}
		var text strings.Builder
		var failure error
		for piece, err := range client.Stream(soon(t), c.prompt, WithReply(&reply)) {
			text.WriteString(piece)
			failure = err
		}
		if !errors.Is(failure, c.fails) || (failure == nil) != (c.fails == nil) {
			t.Errorf("%s: %v", c.prompt, failure)
		}
		if reply.Truncated != c.truncated || reply.Text != "to be, or not" || text.String() != reply.Text {
			t.Errorf("%s: %+v, of %q", c.prompt, reply, text.String())
		}
		if c.truncated && (reply.QueueTime != 3*time.Microsecond || reply.ModelTime != 5*time.Microsecond) {
			t.Errorf("%s: %+v", c.prompt, reply)
		}
		if whole, err := client.Prompt(soon(t), c.prompt); whole != reply || !errors.Is(err, c.fails) {
			t.Errorf("%s: Prompt says %+v, %v", c.prompt, whole, err)
		}
		if whole, _ := client.Prompt(soon(t), c.prompt, WithReply(&reply)); whole != reply {
			t.Errorf("%s: Prompt says %+v and %+v", c.prompt, whole, reply)
		}
	}
}

func TestALoopThatIsLeftHasTheTextSoFarInItsReply(t *testing.T) {
	f := startFake(t, 2)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		s.Append(got, "one ")
		for !s.Cancelled(got) {
			time.Sleep(time.Millisecond)
		}
		s.Finish(got, layout.StatusCancelled, "")
	}
	var reply Reply
	for piece, err := range dialFake(t, f).Stream(soon(t), "x", WithReply(&reply)) {
		if piece != "one " || err != nil {
			t.Errorf("%q, %v", piece, err)
		}
		break
	}
	if reply != (Reply{Text: "one "}) {
		t.Errorf("%+v", reply)
	}
}
