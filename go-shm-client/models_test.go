//go:build linux

package shm

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// answering has the fake answer the question which models there are with message.
func answering(message []byte) func(*fakeserver.Listener) {
	return func(l *fakeserver.Listener) {
		l.Asked = func(question string) []byte {
			if question != "models" {
				panic("it was asked " + question)
			}
			return message
		}
	}
}

func TestTheServerIsAskedWhichModelsItHas(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	want := []ModelInfo{
		{Signature: double.Signature, Protocol: "call", State: "starting"},
		{Signature: fakeserver.Scribe.Signature, Protocol: "stream", State: "ready"},
	}
	f.Change(answering(fakeserver.AnswerMessage(want...)))
	if got, err := client.Models(soon(t)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	f.Change(answering(fakeserver.AnswerMessage()))
	if got, err := client.Models(soon(t)); err != nil || len(got) != 0 {
		t.Errorf("of a server without models: %+v, %v", got, err)
	}
	if len(f.Sessions()) != 1 {
		t.Errorf("%d sessions: asking opened one", len(f.Sessions()))
	}
}

func TestAServerWithoutASessionToGiveIsAskedAllTheSame(t *testing.T) {
	f := startFake(t, 4)
	f.Change(answering(fakeserver.AnswerMessage(ModelInfo{Signature: double.Signature, Protocol: "call", State: "starting"})))
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(string) *doorbell.RefusedError {
			return &RefusedError{Reason: layout.ReasonInternal, Message: "it is starting"}
		}
	})
	client := clientOf(t, f.Path)
	if _, err := client.Model(soon(t), ""); err == nil {
		t.Error("it gave a session")
	}
	if models, err := client.Models(soon(t)); err != nil || len(models) != 1 || models[0].State != "starting" {
		t.Errorf("%+v, %v", models, err)
	}
}

func TestAnAnswerThatBreaksTheProtocolEndsThatQuestionOnly(t *testing.T) {
	f := startFake(t, 4)
	client := dialFake(t, f)
	for name, message := range map[string][]byte{
		"another kind":        fakeserver.Message(layout.FrameKindWelcome, []byte("[]")),
		"no JSON":             fakeserver.Message(layout.FrameKindAnswer, []byte("models")),
		"no list":             fakeserver.Message(layout.FrameKindAnswer, []byte("{}")),
		"a model of no state": fakeserver.AnswerMessage(ModelInfo{Signature: double.Signature, Protocol: "call"}),
	} {
		f.Change(answering(message))
		if models, err := client.Models(soon(t)); models != nil || !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrNotRun) {
			t.Errorf("%s: %v, %v", name, models, err)
		}
	}
	f.Change(func(l *fakeserver.Listener) { l.Asked = nil })
	var refused *RefusedError
	if _, err := client.Models(soon(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), `unknown question "models"`) {
		t.Errorf("refused: %v", err)
	}
	if result, err := client.Classify(soon(t), gray(200)); err != nil || result.Label != "bright" {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestAskingEndsWithItsContext(t *testing.T) {
	f := startFake(t, 4)
	asked, hold := make(chan struct{}), make(chan struct{})
	defer close(hold)
	f.Change(func(l *fakeserver.Listener) {
		l.Asked = func(string) []byte { asked <- struct{}{}; <-hold; return nil }
	})
	client := dialFake(t, f)
	ctx, cancel := context.WithCancel(soon(t))
	go func() { <-asked; cancel() }()
	if _, err := client.Models(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAClosedClientAsksNothing(t *testing.T) {
	f := startFake(t, 4)
	asked, hold := make(chan struct{}), make(chan struct{})
	defer close(hold)
	f.Change(func(l *fakeserver.Listener) {
		l.Asked = func(string) []byte { close(asked); <-hold; return nil }
	})
	client := dialFake(t, f)
	go func() { <-asked; client.Close() }()
	for _, when := range []string{"closed meanwhile", "closed before"} {
		if _, err := client.Models(soon(t)); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotRun) {
			t.Errorf("%s: %v", when, err)
		}
	}
}
