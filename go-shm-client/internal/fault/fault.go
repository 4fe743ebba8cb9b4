// Package fault holds the errors that callers of shm can tell apart. They are born at every level, so they live
// below all of them; package shm shows them under its own name.
package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
)

var (
	NotRun     = errors.New("the call was not run")
	ServerGone = errors.New("shm-server is gone")
	Draining   = errors.New("shm-server is draining: it takes no new work")
	Protocol   = errors.New("shm-server broke the protocol")
	Model      = errors.New("the model failed")
	Closed     = os.ErrClosed

	// NoSuchModel: the server has no model of that name. Moved: another process serves the model from now on.
	NoSuchModel = errors.New("shm-server has no such model")
	Moved       = errors.New("the model has moved to another process")

	// Quarantined: the context ended while the server had the slots, which are used again when it is done with them.
	Quarantined = errors.New("the slots are still with the server")

	// These say of every call that it was not run.
	RingFull      = notRun("every slot is taken")
	PixelCount    = notRun(fmt.Sprintf("an image is %d bytes, planar RGB", PixelBytes))
	SlotReleased  = notRun("the slot's lease is over")
	SlotBusy      = notRun("the slot is in use by another call")
	Tensor        = notRun("not as the model's signature has it")
	InvalidPrompt = notRun("the prompt cannot be answered as asked")

	// Of a prompt; see layout.md, "status".
	Unavailable  = errors.New("the model's endpoint does not answer")
	Unauthorized = errors.New("the model's endpoint does not accept the server's key")
	RateLimited  = errors.New("the model's endpoint refuses more requests for now")
	TimedOut     = errors.New("the model's endpoint took too long")
	Broken       = errors.New("the model's endpoint broke off")
)

// PixelBytes is the size of an image of 32 x 32 pixels, planar RGB.
const PixelBytes = 3 * 32 * 32

// As is err for which errors.Is finds kind too. Its text stays.
func As(err, kind error) error { return &as{err, kind} }

type as struct {
	error
	kind error
}

func (e *as) Unwrap() error        { return e.error }
func (e *as) Is(target error) bool { return target == e.kind }

func notRun(text string) error { return As(errors.New(text), NotRun) }

// DeadlineExceeded also is context.DeadlineExceeded and os.ErrDeadlineExceeded.
var DeadlineExceeded error = deadlineExceeded{}

type deadlineExceeded struct{}

func (deadlineExceeded) Error() string   { return "deadline exceeded" }
func (deadlineExceeded) Timeout() bool   { return true }
func (deadlineExceeded) Temporary() bool { return true }
func (deadlineExceeded) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// Context is why ctx ended: DeadlineExceeded, or the context's own error, and its cause where one was given.
func Context(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = DeadlineExceeded
	} else {
		err = fmt.Errorf("call given up: %w", err)
	}
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// ModelError is what the model said when it failed. It is Model.
type ModelError struct{ Message string }

func (e *ModelError) Error() string        { return Model.Error() + ": " + e.Message }
func (e *ModelError) Is(target error) bool { return target == Model }

// A PromptError is what the server said about a prompt that failed. It is Kind, one of the errors above.
type PromptError struct {
	Kind    error
	Message string
}

func (e *PromptError) Error() string { return e.Kind.Error() + ": " + e.Message }
func (e *PromptError) Unwrap() error { return e.Kind }

// A Violation is a rule of layout.md that the server broke. It is Protocol.
type Violation struct {
	Rule   string // what was violated: "magic", "version", "geometry", "turn", "slot", ...
	Detail string
}

func (e *Violation) Error() string        { return Protocol.Error() + ": " + e.Rule + ": " + e.Detail }
func (e *Violation) Is(target error) bool { return target == Protocol }

// Violated makes a Violation.
func Violated(rule, format string, args ...any) error {
	return &Violation{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}
