package shm

import (
	"errors"
	"fmt"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/peer"
)

// What can go wrong, for errors.Is.
var (
	// ErrNotRun: the call was not run and will not be, so it can be made again without being run twice. Every error of a call
	// is one of two kinds, and this tells them apart:
	//
	//	                                     ErrNotRun            not ErrNotRun: it may have run
	//	the server is gone (ErrServerGone)   before it was sent   in flight
	//	the context ended, the client closed before it was sent   in flight
	//	ErrDraining, ErrDeadlineExceeded     by the server        a prompt that had begun, or in flight
	//	ErrRingFull, ErrPixelCount,
	//	ErrTensor, *SignatureError,
	//	ErrSlotReleased, ErrSlotBusy,
	//	ErrNoSuchModel, ErrInvalidPrompt     always
	//	every other error                                         always
	ErrNotRun = fault.NotRun
	// ErrRingFull: every slot is taken. Only Try variants return it, the others wait.
	ErrRingFull = fault.RingFull
	// ErrServerGone: the server died, hung up or broke the protocol, or there is none now. Calls in flight are lost.
	ErrServerGone = fault.ServerGone
	// ErrDraining: the server is stopping and takes no new work.
	ErrDraining = fault.Draining
	// ErrDeadlineExceeded: the context's deadline passed, here or at the server. It is context.DeadlineExceeded and
	// os.ErrDeadlineExceeded too.
	ErrDeadlineExceeded = fault.DeadlineExceeded
	// ErrModel: the model failed; errors.As gives the *ModelError. Other calls are not affected.
	ErrModel = fault.Model
	// ErrProtocol: server and client do not understand each other.
	ErrProtocol = fault.Protocol
	// ErrNoSuchModel: the server has no model of that name, or none that answers prompts; the text lists those that it has.
	ErrNoSuchModel = fault.NoSuchModel
	// ErrTensor: a name, a type, a size or an extent that is not as the model's signature has it, or a batch that is larger than the
	// session; the text says both.
	ErrTensor = fault.Tensor
	// ErrPixelCount: the pixels are not PixelBytes bytes.
	ErrPixelCount = fault.PixelCount
	// ErrSlotReleased: the slot's lease is over: it was released, or its last call's context ended in flight.
	ErrSlotReleased = fault.SlotReleased
	// ErrSlotBusy: another goroutine's call is using the slot.
	ErrSlotBusy = fault.SlotBusy
	// ErrClosed: the client was closed. It is os.ErrClosed.
	ErrClosed = fault.Closed

	// ErrInvalidPrompt: the prompt is empty, no UTF-8 or too long, or an option is out of range; the text says which.
	ErrInvalidPrompt = fault.InvalidPrompt
	// ErrUnavailable: the endpoint behind the server's generator does not answer. Like the errors below it concerns that
	// one call; errors.As gives the *PromptError with the server's words.
	ErrUnavailable = fault.Unavailable
	// ErrUnauthorized: the endpoint does not accept the server's key.
	ErrUnauthorized = fault.Unauthorized
	// ErrRateLimited: the endpoint refuses more requests for now.
	ErrRateLimited = fault.RateLimited
	// ErrTimedOut: the endpoint took too long.
	ErrTimedOut = fault.TimedOut
	// ErrBroken: the endpoint broke off; the text before it stands.
	ErrBroken = fault.Broken
)

var errClosed = fmt.Errorf("shm client: %w", ErrClosed)

// notRun marks the error of a call that was not sent. What every error of its kind says is not said again, so that an
// ErrRingFull allocates nothing.
func notRun(err error) error {
	if err == nil || errors.Is(err, ErrNotRun) {
		return err
	}
	return fault.As(err, ErrNotRun)
}

// A ModelError is what the model said when it failed.
type ModelError = fault.ModelError

// A PromptError is what the server said about a prompt that failed; it is one of the errors above.
type PromptError = fault.PromptError

// A RefusedError is the server's no to a connection: another layout version, too many sessions, another user, ...
type RefusedError = doorbell.RefusedError

// A ForeignServerError is a server of another user, which is not talked to unless Options.ServerUsers or Options.AnyServer says so. It is
// os.ErrPermission.
type ForeignServerError = peer.ForeignServerError

// Reason is a RefusedError's reason.
type Reason = doorbell.Reason
