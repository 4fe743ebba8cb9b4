package shm

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// DefaultSamplingSteps is how many tokens a reply has at most unless SamplingSteps says otherwise.
const DefaultSamplingSteps = 128

// A Reply is the text that the model wrote.
type Reply struct {
	Text      string
	Truncated bool          // the slot was full; the text ends, at a character's boundary, before the model did
	QueueTime time.Duration // from the call until its turn came: a server generates for a few prompts at a time
	ModelTime time.Duration // from there until the last token
}

// String is the text.
func (r Reply) String() string { return r.Text }

// A PromptOption changes one prompt.
type PromptOption func(*layout.Submission) error

// SamplingSteps sets how many tokens the reply has at most, from 1 on.
func SamplingSteps(n int) PromptOption {
	return func(s *layout.Submission) error {
		if n < 1 || n > math.MaxUint32 {
			return fmt.Errorf("%w: sampling steps of %d, must be 1 or more", ErrInvalidPrompt, n)
		}
		s.SamplingSteps = uint32(n)
		return nil
	}
}

// Temperature sets how daring the choice of a token is: 0 takes the likeliest each time. By default it is what suits the model.
func Temperature(t float64) PromptOption {
	return func(s *layout.Submission) error {
		s.Temperature = float32(t)
		s.Flags |= layout.SubmissionFlagWithTemperature
		return nil
	}
}

// TopK draws among the k likeliest tokens, 0 among all. By default it is what suits the model.
func TopK(k int) PromptOption {
	return func(s *layout.Submission) error {
		if k < 0 || k > math.MaxUint32 {
			return fmt.Errorf("%w: top-k of %d, must be 0 or more", ErrInvalidPrompt, k)
		}
		s.TopK = uint32(k)
		s.Flags |= layout.SubmissionFlagWithTopK
		return nil
	}
}

// Seed makes the drawing repeatable: the same prompt, options and seed give the same reply of the same model on the same
// machine. By default each prompt has a seed of its own.
func Seed(seed uint64) PromptOption {
	return func(s *layout.Submission) error {
		s.Seed = seed
		s.Flags |= layout.SubmissionFlagWithSeed
		return nil
	}
}

// Prompt has the model answer prompt, UTF-8 text, and waits for all of it. It waits for a free slot. With an error, Reply has the
// text that came before it.
func (c *Client) Prompt(ctx context.Context, prompt string, opts ...PromptOption) (Reply, error) {
	var reply Reply
	var text strings.Builder
	err := c.prompt(ctx, prompt, opts, func(piece string) bool {
		text.WriteString(piece)
		return true
	}, &reply)
	reply.Text = text.String()
	return reply, err
}

// Stream is Prompt piece by piece, as the text is generated; pieces are whole characters. After an error, which comes with
// an empty piece, there is nothing more. Leaving the loop cancels the rest. Each use of the sequence is a call of its own.
//
//	for piece, err := range client.Stream(ctx, "To be, or not to be") {
//		if err != nil {
//			return err
//		}
//		fmt.Print(piece)
//	}
func (c *Client) Stream(ctx context.Context, prompt string, opts ...PromptOption) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		stopped := false
		err := c.prompt(ctx, prompt, opts, func(piece string) bool {
			stopped = !yield(piece, nil)
			return !stopped
		}, new(Reply))
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// prompt gives each piece of the text to each, until that returns false, and then says in reply how it ended.
func (c *Client) prompt(ctx context.Context, prompt string, opts []PromptOption, each func(string) bool, reply *Reply) error {
	submission := layout.Submission{SamplingSteps: DefaultSamplingSteps, Length: uint32(len(prompt))}
	for _, option := range opts {
		if err := option(&submission); err != nil {
			return err
		}
	}
	conn, slot, err := c.fillPrompt(ctx, prompt)
	if err != nil {
		return err
	}
	stream, err := conn.Prompt(ctx, slot, submission)
	if err != nil {
		conn.Release(slot)
		return err
	}
	defer func() { // also when each panics
		if stream.Close() {
			conn.Release(slot)
		}
	}()
	for {
		text, final, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if text != "" && !each(text) {
			return nil
		}
		if final != nil {
			reply.Truncated = final.Flags&layout.CompletionFlagTruncated != 0
			reply.QueueTime, reply.ModelTime = time.Duration(final.QueueNS), time.Duration(final.ModelNS)
			return promptError(ctx, final.Status, stream.Message(final))
		}
	}
}

// fillPrompt claims a slot and writes prompt to it.
func (c *Client) fillPrompt(ctx context.Context, prompt string) (*session.Session, uint32, error) {
	l, err := c.promptLink(ctx)
	if err != nil {
		return nil, 0, err
	}
	conn, err := l.connection()
	if err != nil {
		return nil, 0, err
	}
	slot, err := conn.Claim(ctx)
	if err != nil {
		return nil, 0, err
	}
	memory := conn.Slot(slot)
	if len(prompt) > len(memory) {
		conn.Release(slot)
		return nil, 0, fmt.Errorf("%w: %d bytes, a slot has %d (see WithPromptSlots)", ErrInvalidPrompt, len(prompt), len(memory))
	}
	copy(memory, prompt)
	return conn.Session, slot, nil
}

// EchoPrompt sends text, of up to a slot's size, through the server of the prompt lane and back, all the way but the model.
func (c *Client) EchoPrompt(ctx context.Context, text string) (string, error) {
	conn, slot, err := c.fillPrompt(ctx, text)
	if err != nil {
		return "", err
	}
	done, owned, err := conn.Do(ctx, slot, layout.Submission{Op: layout.OpEcho, Length: uint32(len(text))})
	if !owned {
		return "", err
	}
	defer conn.Release(slot)
	if err == nil {
		err = statusError(done, conn, slot)
	}
	if err != nil {
		return "", err
	}
	echo := string(conn.Reply(slot)[:done.Length])
	if Checksum([]byte(echo)) != done.Checksum {
		return "", fmt.Errorf("%w: the echo differs from its checksum", ErrProtocol)
	}
	return echo, nil
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
func promptError(ctx context.Context, status uint16, message string) error {
	switch status {
	case layout.StatusOK:
		return nil
	case layout.StatusDeadlineExceeded:
		return ErrDeadlineExceeded
	case layout.StatusDraining:
		return ErrDraining
	case layout.StatusModelError:
		return &ModelError{Message: message}
	case layout.StatusCancelled:
		if ctx.Err() != nil {
			return fault.Context(ctx)
		}
	}
	if kind, ok := promptErrors[status]; ok {
		return &PromptError{Kind: kind, Message: message}
	}
	return fault.Violated("status", "a prompt that nobody cancelled ended with status %d", status)
}
