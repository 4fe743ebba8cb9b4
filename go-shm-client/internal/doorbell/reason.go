package doorbell

import (
	"fmt"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Reason is why the server refused or ended a session; layout.md, enum reason.
type Reason uint16

var reasonNames = map[Reason]string{
	layout.ReasonVersion:         "version",
	layout.ReasonFeatures:        "features",
	layout.ReasonMalformed:       "malformed",
	layout.ReasonNoSuchModel:     "no such model",
	layout.ReasonNoMemory:        "no memory",
	layout.ReasonTooManySessions: "too many sessions",
	layout.ReasonForbidden:       "forbidden",
	layout.ReasonDraining:        "draining",
	layout.ReasonProtocol:        "protocol",
	layout.ReasonInternal:        "internal error",
	layout.ReasonMoved:           "moved",
	layout.ReasonStarting:        "starting",
}

func (r Reason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// A RefusedError is the server's no to a handshake. A draining server's no is fault.Draining too, and one that there is no such
// model is fault.NoSuchModel; while a model's process is being started, nobody serves it: fault.ServerGone.
type RefusedError struct {
	Reason  Reason
	Message string
}

func (e *RefusedError) Error() string { return "shm-server refused: " + describe(e.Reason, e.Message) }
func (e *RefusedError) Is(target error) bool {
	return target == fault.Draining && e.Reason == layout.ReasonDraining ||
		target == fault.NoSuchModel && e.Reason == layout.ReasonNoSuchModel ||
		target == fault.ServerGone && e.Reason == layout.ReasonStarting
}

// A GoodbyeError is why the server ended the session. It is fault.ServerGone; one because of draining is
// fault.Draining too, and one because of our own fault is fault.Protocol. One because the model has moved is fault.Moved and
// fault.NotRun: what was taken has been answered, so what is not answered was not run.
type GoodbyeError struct {
	Reason  Reason
	Message string
}

func (e *GoodbyeError) Error() string {
	return "shm-server is gone: it ended the session: " + describe(e.Reason, e.Message)
}

func (e *GoodbyeError) Is(target error) bool {
	return target == fault.ServerGone ||
		target == fault.Draining && e.Reason == layout.ReasonDraining ||
		target == fault.Protocol && e.Reason == layout.ReasonProtocol ||
		(target == fault.Moved || target == fault.NotRun) && e.Reason == layout.ReasonMoved
}

func describe(reason Reason, message string) string {
	if message == "" {
		return reason.String()
	}
	return message
}
