package shm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
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
	for {
		began, err := c.converse(ctx, prompt, o, each)
		switch {
		case !errors.Is(err, fault.Moved):
			return err
		case began: // it was run, whatever the goodbye says
			return fmt.Errorf("%w: its text broke off: %v", ErrServerGone, err)
		}
	}
}

// converse is prompt on one session. began is whether some text came.
func (c *Client) converse(ctx context.Context, prompt string, o promptOptions, each func(string) bool) (began bool, err error) {
	conn, slot, err := c.fillPrompt(ctx, prompt)
	if err != nil {
		return false, err
	}
	stream, err := conn.Prompt(ctx, slot, o.Submission)
	if err != nil {
		conn.Release(slot)
		return false, err
	}
	defer func() { // also when each panics
		if stream.Close() {
			conn.Release(slot)
		}
	}()
	for {
		text, final, err := stream.Next(ctx)
		if err != nil {
			return began, err
		}
		if text != "" {
			if began = true; !each(text) {
				return true, nil
			}
		}
		if final != nil {
			if o.reply != nil {
				o.reply.Truncated = final.Flags&layout.CompletionFlagTruncated != 0
				o.reply.QueueTime, o.reply.ModelTime = time.Duration(final.QueueNS), time.Duration(final.ModelNS)
			}
			message, err := stream.Message(final)
			if err != nil {
				return began, err
			}
			return began, promptError(ctx, *final, message)
		}
	}
}

// fillPrompt claims a slot and writes prompt to it. Its errors are ErrNotRun.
func (c *Client) fillPrompt(ctx context.Context, prompt string) (*session.Session, uint32, error) {
	l, err := c.promptLink(ctx)
	if err != nil {
		return nil, 0, notRun(err)
	}
	conn, slot, err := l.claim(ctx)
	if err != nil {
		return nil, 0, err
	}
	if most := segment.Bound(conn.Geometry().Inputs); uint64(len(prompt)) > uint64(most) {
		err = fmt.Errorf("%w: %d bytes, the slots of this client take %d", ErrInvalidPrompt, len(prompt), most)
	} else {
		err = conn.Touch(func() { copy(conn.Input(0, slot), prompt) })
	}
	if err != nil {
		conn.Release(slot)
		return nil, 0, notRun(err)
	}
	return conn.Session, slot, nil
}

// EchoPrompt sends text, as long as a prompt and a reply can be, to the model that answers prompts and back, all the way but the model.
func (c *Client) EchoPrompt(ctx context.Context, text string) (string, error) {
	for {
		if echo, err := c.echoPrompt(ctx, text); !errors.Is(err, fault.Moved) {
			return echo, err
		}
	}
}

func (c *Client) echoPrompt(ctx context.Context, text string) (string, error) {
	conn, slot, err := c.fillPrompt(ctx, text)
	if err != nil {
		return "", err
	}
	if most := segment.Bound(conn.Geometry().Outputs); uint64(len(text)) > uint64(most) {
		conn.Release(slot)
		return "", fmt.Errorf("%w: an echo of %d bytes, the replies of this client take %d", ErrInvalidPrompt, len(text), most)
	}
	done, owned, err := conn.Do(ctx, slot, layout.Submission{Op: layout.OpEcho, Extent: uint32(len(text))})
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
	if err := conn.Touch(func() { echo = string(conn.Output(0, slot)[:done.Extent]) }); err != nil {
		return "", err
	}
	if Checksum([]byte(echo)) != done.Checksum {
		return "", fmt.Errorf("%w: the echo differs from its checksum", ErrProtocol)
	}
	return echo, nil
}
