package shm

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// PixelBytes is the size of an image as the model sees it: 32 x 32 pixels, planar RGB (1024 bytes red, then green,
// then blue; each row by row from the top).
const PixelBytes = layout.ImageBytes

// A Result is the model's answer.
type Result struct {
	Label     string
	Class     int           // Label's index in Info.Classes
	Score     float32       // probability of Label, 0 to 1
	Scores    []float32     // of every class; nil unless asked for by WithScores
	Batch     int           // how many images the model ran together with this one, itself counted
	QueueTime time.Duration // from the call until the server took it
	ModelTime time.Duration // from there until the model had its result
}

// Classify classifies PixelBytes bytes of pixels. It waits for a free slot. Package go-shm-client/pictures makes such bytes
// of picture files.
func (c *Client) Classify(ctx context.Context, pixels []byte, opts ...CallOption) (Result, error) {
	return c.classify(ctx, pixels, opts, take)
}

// TryClassify is Classify that returns ErrRingFull when every slot is taken.
func (c *Client) TryClassify(ctx context.Context, pixels []byte, opts ...CallOption) (Result, error) {
	return c.classify(ctx, pixels, opts, tryTake)
}

func (c *Client) classify(ctx context.Context, pixels []byte, opts []CallOption, claim claim) (Result, error) {
	s, slot, err := c.claim(ctx, pixels, claim)
	if err != nil {
		return Result{}, err
	}
	result, owned, err := classify(ctx, s, slot, pixels, opts)
	if owned {
		s.Release(slot)
	}
	return result, err
}

// claim takes a slot of a session.
type claim func(*session.Session, context.Context) (uint32, error)

func take(s *session.Session, ctx context.Context) (uint32, error)  { return s.Take(ctx) }
func tryTake(s *session.Session, _ context.Context) (uint32, error) { return s.TryTake() }

// claim takes a slot for pixels, which are not written to it yet. Its errors are ErrNotRun.
func (c *Client) claim(ctx context.Context, pixels []byte, claim claim) (*session.Session, uint32, error) {
	if len(pixels) != PixelBytes {
		return nil, 0, fmt.Errorf("%w: got %d", ErrPixelCount, len(pixels))
	}
	conn, err := c.images.connection()
	if err != nil {
		return nil, 0, notRun(err)
	}
	slot, err := claim(conn.Session, ctx)
	return conn.Session, slot, notRun(err)
}

// classify runs the model on an owned slot, after pixels were written to it unless they are nil, and copies out of the reply while
// the slot still is.
func classify(ctx context.Context, s *session.Session, slot uint32, pixels []byte, opts []CallOption) (result Result, owned bool, err error) {
	option := collectCall(opts)
	var flags uint16
	if option.wantScores {
		flags = layout.SubmissionFlagWantScores
	}
	done, owned, err := s.CallWith(ctx, slot, pixels, layout.OpClassify, flags)
	if err == nil {
		err = statusError(done, s, slot)
	}
	if err != nil {
		return Result{}, owned, err
	}
	classes := s.Metadata.Classes
	if uint64(done.Label) >= uint64(len(classes)) {
		return Result{}, owned, fault.Violated("label", "class %d, there are %d", done.Label, len(classes))
	}
	result = Result{
		Label:     classes[done.Label],
		Class:     int(done.Label),
		Score:     done.Score,
		Batch:     int(done.Batch),
		QueueTime: time.Duration(done.QueueNS),
		ModelTime: time.Duration(done.ModelNS),
	}
	if option.wantScores {
		if uint64(done.Length) != 4*uint64(len(classes)) {
			return Result{}, owned, fault.Violated("length", "%d bytes of scores for %d classes", done.Length, len(classes))
		}
		scores := option.scores
		err = s.Touch(func() { scores = appendScores(scores, s.Reply(slot)[:done.Length]) })
		if err != nil {
			return Result{}, owned, err
		}
		result.Scores = scores
	}
	return result, owned, nil
}

func appendScores(dst []float32, reply []byte) []float32 {
	dst = slices.Grow(dst, len(reply)/4)
	for ; len(reply) >= 4; reply = reply[4:] {
		dst = append(dst, math.Float32frombits(binary.LittleEndian.Uint32(reply)))
	}
	return dst
}

// unlessRun marks a refusal of the server's as ErrNotRun. A prompt that had begun counts itself in its batch.
func unlessRun(err error, done layout.Completion) error {
	if done.Batch == 0 {
		return notRun(err)
	}
	return err
}

// statusError turns a completion's status, which the lane has checked, into an error.
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
		var message string
		if err := s.Touch(func() { message = string(s.Reply(slot)[:done.Length]) }); err != nil {
			return err
		}
		return &ModelError{Message: fault.Line(message)}
	}
	return nil
}
