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

// A Piece is some text of a reply, or its end.
type Piece struct {
	Text  string // whole characters
	Reply *Reply // of the last piece, which has no text: all of it, and how it ended; nil of every other piece
}

// String is the text.
func (p Piece) String() string { return p.Text }

// Prompt has a model answer prompt, UTF-8 text, and waits for all of it. It waits for a free slot. With an error, Reply has the
// text that came before it.
func (c *Client) Prompt(ctx context.Context, prompt string, options ...PromptOptions) (Reply, error) {
	return whole(c.Stream(ctx, prompt, options...))
}

// TryPrompt is Prompt that returns ErrRingFull when every slot is taken.
func (c *Client) TryPrompt(ctx context.Context, prompt string, options ...PromptOptions) (Reply, error) {
	return whole(c.TryStream(ctx, prompt, options...))
}

func whole(pieces iter.Seq2[Piece, error]) (Reply, error) {
	for piece, err := range pieces {
		if piece.Reply != nil {
			return *piece.Reply, err
		}
	}
	return Reply{}, nil // not reached: a sequence ends with its Reply
}

// Stream is Prompt piece by piece, as the text is generated. The last piece has no text, but the Reply; with an error, which comes
// with the last piece only, it says what came before. Leaving the loop cancels the rest. Each use of the sequence is a call of its
// own.
//
//	for piece, err := range client.Stream(ctx, "To be, or not to be") {
//		if err != nil {
//			return err
//		}
//		fmt.Print(piece)
//		if piece.Reply != nil && piece.Reply.Truncated {
//			fmt.Println("...")
//		}
//	}
func (c *Client) Stream(ctx context.Context, prompt string, options ...PromptOptions) iter.Seq2[Piece, error] {
	return c.pieces(ctx, prompt, options, (*link).claim)
}

// TryStream is Stream that ends with ErrRingFull when every slot is taken.
func (c *Client) TryStream(ctx context.Context, prompt string, options ...PromptOptions) iter.Seq2[Piece, error] {
	return c.pieces(ctx, prompt, options, (*link).tryClaim)
}

func (c *Client) pieces(ctx context.Context, prompt string, options []PromptOptions, claim claim) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		var reply Reply
		var text strings.Builder
		left := false
		err := c.prompt(ctx, prompt, options, claim, &reply, func(piece string) bool {
			text.WriteString(piece)
			left = !yield(Piece{Text: piece}, nil)
			return !left
		})
		if reply.Text = text.String(); !left {
			yield(Piece{Reply: &reply}, err)
		}
	}
}

// prompt gives each piece of the text to each, until that returns false, and says in reply how it ended.
func (c *Client) prompt(ctx context.Context, prompt string, options []PromptOptions, claim claim, reply *Reply, each func(string) bool) error {
	o, err := promptOptions(options)
	if err != nil {
		return err
	}
	submission, err := o.submission(prompt)
	if err != nil {
		return err
	}
	l, err := c.stream(ctx, o.Model)
	if err != nil {
		return err
	}
	for {
		began, err := l.converse(ctx, prompt, submission, claim, reply, each)
		switch {
		case !errors.Is(err, fault.Moved):
			return err
		case began: // it was run, whatever the goodbye says
			return fmt.Errorf("%w: its text broke off: %v", ErrServerGone, err)
		}
	}
}

// converse is prompt on one session. began is whether some text came.
func (l *link) converse(ctx context.Context, prompt string, s layout.Submission, claim claim, reply *Reply, each func(string) bool) (began bool, err error) {
	conn, slot, err := l.fillPrompt(ctx, prompt, claim)
	if err != nil {
		return false, err
	}
	stream, err := conn.Prompt(ctx, slot, s)
	if err != nil {
		conn.Release(slot)
		return false, err
	}
	defer stream.Close() // also when each panics
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
			reply.Truncated = final.Flags&layout.CompletionFlagTruncated != 0
			reply.QueueTime, reply.ModelTime = time.Duration(final.QueueNS), time.Duration(final.ModelNS)
			message, err := stream.Message(final)
			if err != nil {
				return began, err
			}
			return began, promptError(ctx, *final, message)
		}
	}
}

// fillPrompt claims a slot and writes prompt to it. Its errors are ErrNotRun.
func (l *link) fillPrompt(ctx context.Context, prompt string, claim claim) (*session.Session, uint32, error) {
	conn, slot, err := claim(l, ctx, 1)
	if err != nil {
		return nil, 0, err
	}
	if _, err = promptExtent(conn, prompt); err == nil {
		err = conn.Touch(func() { copy(conn.Input(0, slot, 1), prompt) })
	}
	if err != nil {
		conn.Release(slot)
		return nil, 0, notRun(err)
	}
	return conn.Session, slot, nil
}

// promptExtent is the extent of a prompt, if a slot has room for it.
func promptExtent(conn *connection, prompt string) (uint32, error) {
	most := min(segment.Bound(conn.Geometry().Inputs), segment.Bound(conn.Geometry().Outputs))
	if uint64(len(prompt)) > uint64(most) {
		return 0, fmt.Errorf("%w: %d bytes, the slots of this client take %d", ErrInvalidPrompt, len(prompt), most)
	}
	return uint32(len(prompt)), nil
}

// EchoPrompt sends text, as long as a prompt can be, to the server's default model that answers prompts and back, all the way but the
// model.
func (c *Client) EchoPrompt(ctx context.Context, text string) (string, error) {
	l, err := c.link(ctx, c.prompts)
	if err != nil {
		return "", err
	}
	slot, err := l.reserve(ctx, (*link).claim)
	if err != nil {
		return "", err
	}
	defer slot.Release()
	lease := slot.lease
	if lease.extent, err = promptExtent(lease.conn, text); err == nil {
		err = slot.write([]byte(text))
	}
	if err != nil {
		return "", err
	}
	if err := slot.call(ctx, layout.OpEcho); err != nil {
		return "", err
	}
	defer slot.end()
	var echo string
	if err := lease.conn.Touch(func() { echo = string(lease.output(0)) }); err != nil {
		return "", err
	}
	if int(lease.done.Extent) != len(text) || Checksum([]byte(echo)) != lease.done.Checksum {
		return "", fmt.Errorf("%w: the echo differs from its checksum", ErrProtocol)
	}
	return echo, nil
}
