package session

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"unicode/utf8"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/segment"
)

// streamWords are the words of a slot's control and progress.
type streamWords struct{ acknowledged, cancel, extent *atomic.Uint32 }

func openStreamWords(areas segment.Areas) ([]streamWords, error) {
	if areas.Controls == nil {
		return nil, nil
	}
	words := make([]streamWords, len(areas.Controls)/layout.ControlBytes)
	for i := range words {
		for _, word := range []struct {
			area   []byte
			offset int
			target **atomic.Uint32
		}{
			{areas.Controls, i*layout.ControlBytes + layout.ControlAcknowledgedAt, &words[i].acknowledged},
			{areas.Controls, i*layout.ControlBytes + layout.ControlCancelAt, &words[i].cancel},
			{areas.Progress, i*layout.ProgressBytes + layout.ProgressExtentAt, &words[i].extent},
		} {
			var err error
			if *word.target, err = machine.Word32(word.area, word.offset); err != nil {
				return nil, fault.Violated("geometry", "stream words of slot %d: %v", i, err)
			}
		}
	}
	return words, nil
}

// reset is before the submission is published, whose turn releases it.
func (w streamWords) reset() {
	w.acknowledged.Store(0)
	w.cancel.Store(0)
}

// Stream is a prompt in flight. One goroutine uses it.
//
//	stream, err := lane.Prompt(ctx, slot, submission)  // the slot is the stream's, on an error still the caller's
//	defer stream.Close()
//	for {
//		text, final, err := stream.Next(ctx)
//		if err != nil || final != nil { break }
//	}
type Stream struct {
	lane  *Lane
	slot  uint32
	read  uint32 // bytes of text that Next has returned
	first *wait  // of the first Next: begun before the submission
	over  bool   // the final completion has come
	left  bool   // the call was given up, and the lane releases the slot once the server has completed it
}

// Prompt submits the s.Extent bytes of text in an owned slot's input.
func (l *Lane) Prompt(ctx context.Context, slot uint32, s layout.Submission) (*Stream, error) {
	s.Op = layout.OpRun
	w, _, err := l.attempt(ctx, slot, []layout.Submission{s}, false)
	if err != nil {
		return nil, err
	}
	return &Stream{lane: l, slot: slot, first: &w}, nil
}

// Next waits for text, whole characters, that has not been returned yet. final is not nil with the last of it, which may be
// empty; it says how the prompt ended. On an error nothing more comes.
func (s *Stream) Next(ctx context.Context) (text string, final *layout.Completion, err error) {
	l, c := s.lane, &s.lane.calls[s.slot]
	for {
		if ctx.Err() != nil && !c.news() {
			s.leave()
			return "", nil, fault.Context(ctx)
		}
		w := s.wait()
		news := l.poll(ctx, s.slot, &w)
		if !l.await(ctx, s.slot, w, news) {
			s.left = true
			return "", nil, fault.Context(ctx)
		}
		if c.state.Load() == done {
			s.over = true
			if c.failed {
				return "", nil, l.failure
			}
			text, err = s.take(c.result.Extent)
			return text, &c.result, err
		}
		c.taken = c.mores.Load()
		if text, err = s.more(c.taken); text != "" || err != nil {
			return text, nil, err
		}
	}
}

// wait is the one that began with the submission, then for each Next one that has not begun.
func (s *Stream) wait() (w wait) {
	if s.first != nil {
		w, s.first = *s.first, nil
	}
	return w
}

// more takes the text that came with `taken` completions.
func (s *Stream) more(taken uint32) (text string, err error) {
	defer s.lane.caught(debug.SetPanicOnFault(true), &err)
	words := &s.lane.streams[s.slot]
	// C1, C2, C3 of layout.md. A store of sync/atomic is sequentially consistent, and so is the load after it: no
	// fence stands between. Forbidden: the server's load of acknowledged (P3) misses our store, so that it
	// publishes no "more", and our load of extent misses its store (P1): we would sleep on text that is there.
	words.acknowledged.Store(taken)
	return s.take(words.extent.Load())
}

// take copies the text up to extent, which the server wrote, out of the reply. A server that breaks a rule of layout.md
// ends the session.
func (s *Stream) take(extent uint32) (text string, err error) {
	defer s.lane.caught(debug.SetPanicOnFault(true), &err)
	room := segment.Bound(s.lane.geometry.Outputs)
	fits, text := extent >= s.read && extent <= room, ""
	if fits {
		text = string(s.lane.Output(0, s.slot, 1)[s.read:extent])
	}
	if err := s.lane.Intact(); err != nil {
		return "", err
	}
	if fits && utf8.ValidString(text) {
		s.read = extent
		return text, nil
	}
	err = fault.Violated("text", "the reply of slot %d is no UTF-8", s.slot)
	if !fits {
		err = fault.Violated("extent", "slot %d has %d bytes of text after %d; %d fit", s.slot, extent, s.read, room)
	}
	s.lane.hooks.Broken(err)
	return "", fmt.Errorf("%w: %w", fault.ServerGone, err)
}

// Message is what the server said of an error. Valid after a final completion, before Close.
func (s *Stream) Message(final *layout.Completion) (message string, err error) {
	return s.lane.Said(s.slot, final)
}

// Close gives the prompt up unless it is over, and releases the slot. The stream must not be used any more.
func (s *Stream) Close() {
	if !s.left && !s.over {
		s.leave()
	}
	if !s.left {
		s.lane.Release(s.slot)
	}
}

// leave gives the call up while its owner is awake.
func (s *Stream) leave() {
	l := s.lane
	if s.first != nil { // nobody has waited yet
		if w := s.wait(); w.reaper {
			l.leaveRole()
		}
	}
	s.left = l.abandon(s.slot)
	s.over = !s.left
}

// abandon gives up a call in flight that nobody waits for; false: it is done, and the slot stays the caller's.
func (l *Lane) abandon(slot uint32) bool {
	c := &l.calls[slot]
	l.cancel(slot)
	// As one who goes to sleep: counted before the try for the role, which is left while the slot is still ours and
	// keeps the memory mapped; see reap.go.
	l.waiters.Add(1)
	if l.reader.Load() == readerNone { // nobody reads its bell, and we shall not
		l.callReader()
	}
	if l.takeRole() {
		l.reapGuarded()
		l.leaveRole()
	}
	if c.state.CompareAndSwap(pending, abandoned) {
		return true // still counted in waiters, so that its completion is reaped
	}
	l.waiters.Add(-1)
	return false
}

// cancel asks the server to stop after the current token. The slot is owned.
func (l *Lane) cancel(slot uint32) {
	if l.calls[slot].streaming {
		_ = l.touch(func() { l.streams[slot].cancel.Store(1) }) // what is gone is cancelled, too
	}
}
