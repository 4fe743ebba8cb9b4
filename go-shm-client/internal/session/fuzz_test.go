package session

import (
	"errors"
	"testing"
	"unicode/utf8"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// needsNoRaceDetector skips under it: a hostile server writes entries and text again while the client reads them, which is what the
// client must bear, and what the detector is there to find.
func needsNoRaceDetector(f *testing.F) {
	if underRace {
		f.Skip("a hostile server writes what is being read")
	}
}

// hostileServer answers two submissions with what script says: 64 bytes an entry, as they would stand in the ring, but for the
// turn. Where its first byte is 0 that is as it should be; where it is 1 the entry is no completion but a change of the
// reply; otherwise the turn is what the script has there.
func hostileServer(h *heapLane, got layout.Submission, script []byte) {
	for n := 0; len(script) >= layout.EntryBytes && n < 32; n++ {
		entry := script[:layout.EntryBytes]
		script = script[layout.EntryBytes:]
		c := layout.DecodeCompletion(entry)
		switch {
		case entry[0] == 0:
			h.server.Publish(c)
		case entry[0] == 1 && h.streams != nil:
			copy(h.server.Output(0, got.Slot), entry[16:])
			h.server.Extent(got.Slot).Store(c.Extent)
		case entry[0] > 1:
			h.server.PublishTurn(c.Turn)
		}
	}
}

func completions(cs ...layout.Completion) (script []byte) {
	for _, c := range cs {
		var encoded [layout.EntryBytes]byte
		c.Encode(encoded[:])
		script = append(script, encoded[:]...)
	}
	return script
}

// seedCompletions are right ones, and each broken in one way.
func seedCompletions(f *testing.F, good ...layout.Completion) {
	f.Add(completions(good...))
	f.Add(completions(append(good, good...)...)) // each twice
	f.Add(completions(layout.Completion{Turn: 99}))
	for _, spoil := range []func(*layout.Completion){
		func(c *layout.Completion) { c.Slot = 7 },
		func(c *layout.Completion) { c.RequestID = 9 },
		func(c *layout.Completion) { c.Status = layout.StatusMore },
		func(c *layout.Completion) { c.Status = 99 },
		func(c *layout.Completion) { c.Extent = 1<<32 - 1 },
		func(c *layout.Completion) { c.MessageBytes = layout.MessageBytes + 1 },
		func(c *layout.Completion) { c.Status, c.MessageBytes = layout.StatusModelError, layout.MessageBytes },
	} {
		bad := good[0]
		spoil(&bad)
		f.Add(completions(append([]layout.Completion{bad}, good...)...))
	}
}

// FuzzCompletions: whatever stands in the completion ring, each call has an answer of its own or a typed error, and the memory
// is given back once.
func FuzzCompletions(f *testing.F) {
	needsNoRaceDetector(f)
	seedCompletions(f, layout.Completion{RequestID: 0, Slot: 0, Checksum: 5}, layout.Completion{RequestID: 1, Slot: 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		h := newHeapLane(t, 2, 0)
		slots := [2]uint32{h.mustClaim(t), h.mustClaim(t)}
		var returned [2]<-chan outcome
		var got [2]layout.Submission
		for i := range slots { // one after the other: request i is in slot i
			returned[i] = h.call(background(t), slots[i])
			got[i] = h.take(t)
		}
		hostileServer(h, got[0], script)
		h.kill()
		<-h.ended
		for i, slot := range slots {
			o := <-returned[i]
			switch {
			case !o.owned:
				t.Errorf("slot %d is not its caller's", slot)
			case o.err != nil:
				if !errors.Is(o.err, errEnded) && !errors.Is(o.err, fault.Protocol) {
					t.Errorf("untyped: %v", o.err)
				}
			case o.result.RequestID != got[i].RequestID || o.result.Slot != slot || checkCompletion(&h.geometry, o.result) != nil:
				t.Errorf("slot %d was answered by %+v", slot, o.result)
			}
			h.Release(slot)
		}
		if n := h.unmapped.Load(); n != 1 {
			t.Errorf("unmapped %d times", n)
		}
	})
}

// FuzzStream: whatever a server says of a prompt, its text is whole characters that fit the reply, and then there is an end.
func FuzzStream(f *testing.F) {
	needsNoRaceDetector(f)
	more := layout.Completion{Turn: 1, Extent: 3, Slot: 0x21212121} // "!!!!..." in the reply, three of it there
	seedCompletions(f, more, layout.Completion{Status: layout.StatusMore, Extent: 3}, layout.Completion{Extent: 3})
	seedCompletions(f, layout.Completion{Extent: 3, Status: layout.StatusBroken}, more)
	f.Fuzz(func(t *testing.T, script []byte) {
		h := newHeapPrompts(t, 2, 0)
		ctx := background(t)
		stream := h.prompt(ctx, t, "hello")
		hostileServer(h, h.take(t), script)
		h.kill()
		<-h.ended
		var text string
		for {
			piece, final, err := stream.Next(ctx)
			text += piece
			if err != nil && !errors.Is(err, errEnded) && !errors.Is(err, fault.Protocol) {
				t.Errorf("untyped: %v", err)
			}
			if final != nil || err != nil {
				break
			}
		}
		if !utf8.ValidString(text) || len(text) > fakeserver.ReplyBytes {
			t.Errorf("%q", text)
		}
		h.close(stream)
		if n := h.unmapped.Load(); n != 1 {
			t.Errorf("unmapped %d times", n)
		}
	})
}
