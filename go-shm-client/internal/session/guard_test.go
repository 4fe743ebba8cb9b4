//go:build linux && !race

package session

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// mapped is a correct segment of the default model on a real mapping.
func mapped(t *testing.T) ([]byte, *os.File, doorbell.Welcome) {
	t.Helper()
	g := fakeserver.Images(4)
	file := fakeserver.SharedFile(int64(g.SegmentBytes))
	t.Cleanup(func() { file.Close() })
	memory, err := segment.Map(int(file.Fd()), g.SegmentBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { segment.Unmap(memory) })
	fakeserver.Encode(memory, g)
	return memory, file, doorbell.Welcome{
		Welcome:  layout.Welcome{SegmentBytes: g.SegmentBytes, Epoch: fakeserver.Epoch},
		Metadata: doorbell.Metadata{Model: fakeserver.Brightness.Signature},
	}
}

// noDoor is a doorbell that nobody rings.
type noDoor struct{}

func (noDoor) Ring()             {}
func (noDoor) Wait() (int, bool) { select {} }
func (noDoor) Interrupt()        {}

func TestASegmentThatIsGoneBeforeItsHeaderIsReadIsAnError(t *testing.T) {
	memory, file, welcome := mapped(t)
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	_, err := openLane(memory, welcome, layout.ProtocolCall, 0, Hooks{Door: noDoor{}}, new(Counters))
	if !errors.Is(err, fault.ServerGone) || !strings.Contains(err.Error(), "of the 32768 of its segment is gone") {
		t.Error(err)
	}
}

func TestALaneThatIsNotTheOneAskedForIsRejected(t *testing.T) {
	memory, _, welcome := mapped(t)
	for rule, spoil := range map[string]func() uint32{
		"geometry":  func() uint32 { return layout.ProtocolStream },
		"signature": func() uint32 { welcome.Metadata.Model.Inputs = nil; return layout.ProtocolCall },
	} {
		protocol := spoil()
		var violation *fault.Violation
		if _, err := openLane(memory, welcome, protocol, 0, Hooks{Door: noDoor{}}, new(Counters)); !errors.As(err, &violation) || violation.Rule != rule {
			t.Errorf("%v, want %q", err, rule)
		}
	}
}

// Each way to touch the memory that no call goes alone, with nothing there to touch.
func TestARoleOnMemoryThatIsGoneIsLeft(t *testing.T) {
	for name, use := range map[string]func(l *Lane){
		"reap a bell": func(l *Lane) {
			if n := l.Bell(); n != 0 {
				t.Errorf("%d completions", n)
			}
		},
		"leave the role while somebody waits": func(l *Lane) {
			l.waiters.Add(1)
			l.reaping.Store(true)
			l.leaveRole()
		},
		"begin to poll": func(l *Lane) {
			var w wait
			l.spinner.start(SpinForever)
			if news := l.poll(t.Context(), 0, &w); news || !w.reaper {
				t.Errorf("%t, %+v", news, w)
			}
			l.leaveRole()
		},
		"claim": func(l *Lane) {
			for range 9 { // the slots come back
				if _, err := l.TryClaim(1); !errors.Is(err, fault.ServerGone) {
					t.Error(err)
				}
			}
		},
	} {
		memory, file, welcome := mapped(t)
		var broken atomic.Int32
		lane, err := openLane(memory, welcome, layout.ProtocolCall, 0, Hooks{Door: noDoor{}, Broken: func(error) { broken.Add(1) }}, new(Counters))
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(0); err != nil {
			t.Fatal(err)
		}
		use(lane)
		if broken.Load() == 0 {
			t.Errorf("%s: the session goes on", name)
		}
		if lane.reaping.Load() {
			t.Errorf("%s: the role is still held", name)
		}
	}
}
