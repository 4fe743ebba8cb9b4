package shm

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// A Reply is the text that the model wrote.
type Reply struct {
	Text      string
	Truncated bool          // the slot was full; the text ends, at a character's boundary, before the model did
	QueueTime time.Duration // from the call until its turn came: a server generates for a few prompts at a time
	ModelTime time.Duration // from there until the last token
}

// String is the text.
func (r Reply) String() string { return r.Text }

// Prompt has the model answer prompt, UTF-8 text, and waits for all of it. It waits for a free slot. With an error, Reply has the
// text that came before it.
func (c *Client) Prompt(ctx context.Context, prompt string, opts ...PromptOption) (Reply, error) {
	options, err := collectPrompt(prompt, opts)
	if err != nil {
		return Reply{}, err
	}
	if options.reply == nil {
		options.reply = new(Reply)
	}
	err = c.prompt(ctx, prompt, options, func(string) bool { return true })
	return *options.reply, err
}

// Stream is Prompt piece by piece, as the text is generated; pieces are whole characters. After an error, which comes with
// an empty piece, there is nothing more. Leaving the loop cancels the rest. Each use of the sequence is a call of its own.
//
//	var reply shm.Reply
//	for piece, err := range client.Stream(ctx, "To be, or not to be", shm.WithReply(&reply)) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(piece)
//	}
//	if reply.Truncated {
//		fmt.Println("...")
//	}
func (c *Client) Stream(ctx context.Context, prompt string, opts ...PromptOption) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		stopped := false
		options, err := collectPrompt(prompt, opts)
		if err == nil {
			err = c.prompt(ctx, prompt, options, func(piece string) bool {
				stopped = !yield(piece, nil)
				return !stopped
			})
		}
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// prompt gives each piece of the text to each, until that returns false, and fills the reply where one is wanted.
func (c *Client) prompt(ctx context.Context, prompt string, o promptOptions, each func(string) bool) error {
	if o.reply != nil {
		*o.reply = Reply{}
		var text strings.Builder
		defer func() { o.reply.Text = text.String() }()
		next := each
		each = func(piece string) bool {
			text.WriteString(piece)
			return next(piece)
		}
	}
	conn, slot, err := c.fillPrompt(ctx, prompt)
	if err != nil {
		return err
	}
	stream, err := conn.Prompt(ctx, slot, o.Submission)
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
			if o.reply != nil {
				o.reply.Truncated = final.Flags&layout.CompletionFlagTruncated != 0
				o.reply.QueueTime, o.reply.ModelTime = time.Duration(final.QueueNS), time.Duration(final.ModelNS)
			}
			message, err := stream.Message(final)
			if err != nil {
				return err
			}
			return promptError(ctx, *final, message)
		}
	}
}

// fillPrompt claims a slot and writes prompt to it. Its errors are ErrNotRun.
func (c *Client) fillPrompt(ctx context.Context, prompt string) (*session.Session, uint32, error) {
	l, err := c.promptLink(ctx)
	if err != nil {
		return nil, 0, notRun(err)
	}
	conn, err := l.connection()
	if err != nil {
		return nil, 0, notRun(err)
	}
	if len(prompt) > conn.SlotBytes() {
		return nil, 0, fmt.Errorf("%w: %d bytes, the slots of this client take %d", ErrInvalidPrompt, len(prompt), conn.SlotBytes())
	}
	slot, err := conn.Claim(ctx)
	if err != nil {
		return nil, 0, notRun(err)
	}
	if err := conn.Touch(func() { copy(conn.Slot(slot), prompt) }); err != nil {
		conn.Release(slot)
		return nil, 0, notRun(err)
	}
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
	var echo string
	if err := conn.Touch(func() { echo = string(conn.Reply(slot)[:done.Length]) }); err != nil {
		return "", err
	}
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
