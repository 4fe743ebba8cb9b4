package shm

import (
	"context"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// statusError turns the status of a completion that is not a prompt's, and that the lane has checked, into an error.
func statusError(done layout.Completion, s *session.Session, slot uint32) error {
	if err := s.Intact(); err != nil || done.Status == layout.StatusOK {
		return err
	}
	message, err := s.Said(slot, &done)
	if err != nil {
		return err
	}
	return failure(done, message)
}

// promptError turns a prompt's status into an error.
func promptError(ctx context.Context, final layout.Completion, message string) error {
	if final.Status == layout.StatusCancelled && ctx.Err() != nil {
		return fault.Context(ctx)
	}
	return failure(final, message)
}

// failure is the error that layout.md, "status", has for a call, with the server's words where the error has room for some.
func failure(done layout.Completion, message string) error {
	kind := layout.StatusGoError[done.Status]
	switch done.Status {
	case layout.StatusOK:
		return nil
	case layout.StatusDeadlineExceeded, layout.StatusDraining:
		if done.Batch == 0 { // a prompt that had begun counts itself in its batch
			return notRun(kind)
		}
		return kind
	case layout.StatusModelError:
		return &ModelError{Message: fault.Line(message)}
	}
	if kind == nil {
		return fault.Violated("status", "a call that nobody cancelled ended with status %d (%s)", done.Status, layout.StatusName[done.Status])
	}
	return &PromptError{Kind: kind, Message: fault.Line(message)}
}
