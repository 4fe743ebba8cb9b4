package fault

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestWhatAPeerSaysBecomesOnePrintableLine(t *testing.T) {
	long := strings.Repeat("€", 1000)
	for said, want := range map[string]string{
		"":                             "",
		"a black picture é":            "a black picture é",
		"two\nlines\r\n":               "two lines",
		"\x1b[2Jgone\x00":              "[2Jgone",
		"no UTF-8: \xff\xfe!":          "no UTF-8: ��!",
		"right to left \u202eoverride": "right to left  override",
		long:                           strings.Repeat("€", 341) + "...",
	} {
		if got := Line(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

func TestAnErrorCanBeOfAnotherKindToo(t *testing.T) {
	plain := errors.New("plain")
	err := As(As(plain, NotRun), ServerGone)
	for _, kind := range []error{plain, NotRun, ServerGone} {
		if !errors.Is(err, kind) {
			t.Errorf("is not %v", kind)
		}
	}
	if errors.Is(err, Draining) || err.Error() != "plain" {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := As(Context(ended), NotRun); !errors.Is(err, context.Canceled) || !errors.Is(err, NotRun) {
		t.Error(err)
	}
}
