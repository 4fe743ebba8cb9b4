//go:build linux

package shm

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// What the column "Go error" of layout.md can name.
var public = map[string]error{
	"ErrServerGone": ErrServerGone, "ErrDraining": ErrDraining, "ErrDeadlineExceeded": ErrDeadlineExceeded,
	"ErrModel": ErrModel, "ErrProtocol": ErrProtocol, "ErrNoSuchModel": ErrNoSuchModel, "ErrInvalidPrompt": ErrInvalidPrompt,
	"ErrUnavailable": ErrUnavailable, "ErrUnauthorized": ErrUnauthorized, "ErrRateLimited": ErrRateLimited,
	"ErrTimedOut": ErrTimedOut, "ErrBroken": ErrBroken,
}

// only checks that err is the named ones of the public errors, and no other.
func only(t *testing.T, what string, err error, names ...string) {
	t.Helper()
	for name, each := range public {
		if errors.Is(err, each) != slices.Contains(names, name) {
			t.Errorf("%s: %v is %s: %v", what, err, name, !slices.Contains(names, name))
		}
	}
}

type row struct {
	name    string
	value   uint16
	goError []string // none or one
}

// rowsOf reads an enum of layout.md with code of its own.
func rowsOf(t *testing.T, enum string) (rows []row) {
	t.Helper()
	page, err := os.ReadFile("../layout.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- layout: enum "+enum+" -->\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	var column int
	for i, line := range strings.Split(table, "\n") {
		cells := strings.Split(line, " | ")
		switch {
		case i == 0:
			column = slices.Index(cells, "Go error")
		case i > 1:
			value, err := strconv.ParseUint(cells[1], 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			named := row{name: strings.TrimPrefix(cells[0], "| "), value: uint16(value)}
			if cells[column] != "-" {
				named.goError = []string{cells[column]}
				if public[cells[column]] == nil {
					t.Errorf("%s: package shm has no %s", line, cells[column])
				}
			}
			rows = append(rows, named)
		}
	}
	return rows
}

func TestAPromptsStatusIsTheErrorThatTheLayoutNames(t *testing.T) {
	f := startFake(t, 2)
	var status atomic.Uint32
	f.Prompts = func(s *fakeserver.Server, got layout.Submission) { s.Finish(got, uint16(status.Load()), "why\nnot") }
	client := dialFake(t, f)
	statuses := 0
	for _, r := range rowsOf(t, "status") {
		if r.value == layout.StatusMore {
			continue // not the last one
		}
		status.Store(uint32(r.value))
		_, err := client.Prompt(soon(t), "x")
		switch r.value {
		case layout.StatusOK:
			if err != nil {
				t.Error(err)
			}
		case layout.StatusCancelled: // and nobody did
			only(t, r.name, err, "ErrProtocol")
		default:
			only(t, r.name, err, r.goError...)
		}
		var failed *PromptError
		if errors.As(err, &failed) && failed.Message != "why not" {
			t.Errorf("%s: %q", r.name, failed.Message)
		}
		statuses++
	}
	if statuses < 11 {
		t.Errorf("%d statuses", statuses)
	}
}

func TestARefusalAndAGoodbyeAreTheErrorThatTheLayoutNames(t *testing.T) {
	reasons := rowsOf(t, "reason")
	if len(reasons) < 12 {
		t.Errorf("%d reasons", len(reasons))
	}
	for _, r := range reasons {
		reason := Reason(r.value)
		if want := strings.ReplaceAll(r.name, "_", " "); reason.String() != want {
			t.Errorf("%v, want %s", reason, want)
		}
		only(t, "refusal "+r.name, &RefusedError{Reason: reason}, r.goError...)
		only(t, "goodbye "+r.name, &doorbell.GoodbyeError{Reason: reason}, append(r.goError, "ErrServerGone")...)
	}
}

func TestAReasonThatTheLayoutDoesNotHaveIsANumberAndNoOtherError(t *testing.T) {
	for number, said := range map[Reason]string{0: "reason 0", 99: "reason 99", 65535: "reason 65535"} {
		if number.String() != said {
			t.Error(number)
		}
		only(t, said, &RefusedError{Reason: number})
		only(t, said, &doorbell.GoodbyeError{Reason: number}, "ErrServerGone")
	}
}
