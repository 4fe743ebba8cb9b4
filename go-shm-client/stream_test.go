//go:build linux

package shm

import (
	"context"
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
		var reply *Reply
		var text strings.Builder
		for piece, err := range client.Stream(soon(t), c.prompt) {
			switch {
			case reply != nil:
				t.Errorf("%s: %+v, %v behind the reply", c.prompt, piece, err)
			case piece.Reply != nil:
				if reply = piece.Reply; piece.Text != "" || !errors.Is(err, c.fails) || (err == nil) != (c.fails == nil) {
					t.Errorf("%s: %+v, %v", c.prompt, piece, err)
				}
			case err != nil || piece.String() == "":
				t.Errorf("%s: %+v, %v", c.prompt, piece, err)
			}
			text.WriteString(piece.Text)
		}
		if reply == nil || reply.Truncated != c.truncated || reply.Text != "to be, or not" || text.String() != reply.Text {
			t.Fatalf("%s: %+v, of %q", c.prompt, reply, text.String())
		}
		if c.truncated && (reply.QueueTime != 3*time.Microsecond || reply.ModelTime != 5*time.Microsecond) {
			t.Errorf("%s: %+v", c.prompt, reply)
		}
		for name, prompt := range map[string]func(context.Context, string, ...PromptOptions) (Reply, error){
			"Prompt": client.Prompt, "TryPrompt": client.TryPrompt,
		} {
			if whole, err := prompt(soon(t), c.prompt); whole != *reply || !errors.Is(err, c.fails) {
				t.Errorf("%s: %s says %+v, %v", c.prompt, name, whole, err)
			}
		}
	}
}

func TestAStreamThatWasNotSentEndsWithAnEmptyReply(t *testing.T) {
	f := startFake(t, 1)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Append(got, "one ") } // and no end
	client := dialFake(t, f)
	for piece := range client.Stream(soon(t), "x") { // which has the only slot
		if piece.Text == "" {
			t.Fatal("it ended")
		}
		n := 0
		for piece, err := range client.TryStream(soon(t), "x") {
			if n++; n > 1 || piece.Reply == nil || *piece.Reply != (Reply{}) || !errors.Is(err, ErrRingFull) || !errors.Is(err, ErrNotRun) {
				t.Errorf("%+v, %v", piece, err)
			}
		}
		if reply, err := client.TryPrompt(soon(t), "x"); reply != (Reply{}) || !errors.Is(err, ErrRingFull) {
			t.Errorf("%+v, %v", reply, err)
		}
		break
	}
}

func TestAStreamModelIsPromptedByItsName(t *testing.T) {
	f := startFake(t, 2)
	f.StreamModels = func(name string) *fakeserver.Model {
		if name != "villon" && name != "" {
			return nil
		}
		model := fakeserver.Scribe
		model.Name = "model " + name
		model.Answer = func(s *fakeserver.Server, got layout.Submission) {
			s.Append(got, "by "+model.Name)
			s.Finish(got, layout.StatusOK, "")
		}
		return &model
	}
	client := dialFake(t, f)
	for _, name := range []string{"villon", "", "villon"} {
		if reply, err := client.Prompt(soon(t), "x", PromptOptions{Model: name}); err != nil || reply.Text != "by model "+name {
			t.Errorf("%q: %+v, %v", name, reply, err)
		}
		if info, err := client.PromptInfo(soon(t), name); err != nil || info.Model != "model "+name || info.Slots != 2 {
			t.Errorf("%q: %+v, %v", name, info, err)
		}
	}
	if n := len(f.Sessions()); n != 3 {
		t.Errorf("%d sessions, expected one of each model", n)
	}
	for _, name := range []string{"nobody", "\xff"} {
		if _, err := client.Prompt(soon(t), "x", PromptOptions{Model: name}); !errors.Is(err, ErrNoSuchModel) || !errors.Is(err, ErrNotRun) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestALoopThatIsLeftCancelsTheRest(t *testing.T) {
	f := startFake(t, 2)
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) {
		s.Append(got, "one ")
		for !s.Cancelled(got) {
			time.Sleep(time.Millisecond)
		}
		s.Finish(got, layout.StatusCancelled, "")
	}
	var text string
	for piece, err := range dialFake(t, f).Stream(soon(t), "x") {
		if text += piece.Text; piece.Reply != nil || err != nil {
			t.Errorf("%+v, %v", piece, err)
		}
		break
	}
	if text != "one " {
		t.Errorf("%q", text)
	}
	eventually(t, "the server has ended it", func() bool { return f.Last().Answered.Load() == 1 })
}
