package doorbell

import (
	"fmt"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Reason is why the server refused or ended a session; layout.md, enum reason.
type Reason uint16

func (r Reason) String() string {
	if known := layout.ReasonName[:]; int(r) < len(known) && known[r] != "" {
		return known[r]
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// is whether target is the error that layout.md, "reason", has for it.
func (r Reason) is(target error) bool {
	return int(r) < len(layout.ReasonGoError) && layout.ReasonGoError[r] == target
}

// A RefusedError is the server's no to a handshake. It also is the error that layout.md, "reason", has for its reason.
type RefusedError struct {
	Reason  Reason
	Message string
}

func (e *RefusedError) Error() string { return "shm-server refused: " + describe(e.Reason, e.Message) }
func (e *RefusedError) Is(target error) bool {
	return e.Reason.is(target)
}

// A GoodbyeError is why the server ended the session. It is fault.ServerGone, and the error that layout.md, "reason", has for its
// reason. One because the model has moved is fault.Moved and fault.NotRun too: what was taken has been answered, so what is not
// answered was not run.
type GoodbyeError struct {
	Reason  Reason
	Message string
}

func (e *GoodbyeError) Error() string {
	return "shm-server is gone: it ended the session: " + describe(e.Reason, e.Message)
}

func (e *GoodbyeError) Is(target error) bool {
	return target == fault.ServerGone || e.Reason.is(target) ||
		(target == fault.Moved || target == fault.NotRun) && e.Reason == layout.ReasonMoved
}

func describe(reason Reason, message string) string {
	if message == "" {
		return reason.String()
	}
	return message
}
