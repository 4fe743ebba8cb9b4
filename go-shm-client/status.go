package shm

import (
	"context"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// statusError turns the status of a completion that is not a prompt's, and that the lane has checked, into an error.
func statusError(done layout.Completion, s *session.Session, slot uint32) error {
	if err := s.Intact(); err != nil {
		return err
	}
	switch done.Status {
	case layout.StatusDeadlineExceeded:
		return unlessRun(ErrDeadlineExceeded, done)
	case layout.StatusDraining:
		return unlessRun(ErrDraining, done)
	case layout.StatusModelError:
		message, err := s.Said(slot, &done)
		if err != nil {
			return err
		}
		return &ModelError{Message: fault.Line(message)}
	}
	return nil
}

// unlessRun marks a refusal of the server's as ErrNotRun. A prompt that had begun counts itself in its batch.
func unlessRun(err error, done layout.Completion) error {
	if done.Batch == 0 {
		return notRun(err)
	}
	return err
}

var promptErrors = map[uint16]error{
	layout.StatusInvalid:      ErrInvalidPrompt,
	layout.StatusUnavailable:  ErrUnavailable,
	layout.StatusUnauthorized: ErrUnauthorized,
	layout.StatusRateLimited:  ErrRateLimited,
	layout.StatusTimedOut:     ErrTimedOut,
	layout.StatusBroken:       ErrBroken,
}

// promptError turns a prompt's status into an error.
func promptError(ctx context.Context, final layout.Completion, message string) error {
	message = fault.Line(message)
	switch final.Status {
	case layout.StatusOK:
		return nil
	case layout.StatusDeadlineExceeded:
		return unlessRun(ErrDeadlineExceeded, final)
	case layout.StatusDraining:
		return unlessRun(ErrDraining, final)
	case layout.StatusModelError:
		return &ModelError{Message: message}
	case layout.StatusCancelled:
		if ctx.Err() != nil {
			return fault.Context(ctx)
		}
	}
	if kind, ok := promptErrors[final.Status]; ok {
		return &PromptError{Kind: kind, Message: message}
	}
	return fault.Violated("status", "a prompt that nobody cancelled ended with status %d", final.Status)
}
