package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/peer"
	"go-shm-client/internal/segment"
)

// Session is a lane on a mapping, with a doorbell and a goroutine that reads it.
type Session struct {
	*Lane
	Metadata doorbell.Metadata
	Epoch    uint64

	bell  *doorbell.Doorbell
	cause atomic.Pointer[error] // why the session ends: the first one counts
	done  chan struct{}
}

// Supported is nil where there can be sessions.
func Supported() error {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // layout.md: all integers are little-endian
		return unsupported("a little-endian processor")
	}
	return nil
}

// Dial opens a session with the server at path, if it is one to trust. The machine is one that is supported.
func Dial(ctx context.Context, path string, trust peer.Trust, request doorbell.Request, spin time.Duration, counters *Counters) (*Session, error) {
	bell, welcome, fd, err := doorbell.Dial(ctx, path, trust, request)
	if err != nil {
		return nil, err
	}
	s := &Session{Metadata: welcome.Metadata, Epoch: welcome.Epoch, bell: bell, done: make(chan struct{})}
	err = s.open(welcome, fd, request.Protocol, spin, counters)
	syscall.Close(fd) // the mapping outlives it
	if err != nil {
		bell.Close()
		return nil, fmt.Errorf("open segment of shm-server at %s: %w", path, err)
	}
	go s.run()
	return s, nil
}

func (s *Session) open(welcome doorbell.Welcome, fd int, protocol uint32, spin time.Duration, counters *Counters) error {
	memory, err := segment.Map(fd, welcome.SegmentBytes)
	if err != nil {
		return err
	}
	unmap := func() { _ = segment.Unmap(memory) } // fails only for memory that is not mapped
	if s.Lane, err = openLane(memory, welcome, protocol, spin, Hooks{s.bell, s.brokenBy, unmap, welcome.ClockAhead}, counters); err != nil {
		unmap()
	}
	return err
}

func openLane(memory []byte, welcome doorbell.Welcome, protocol uint32, spin time.Duration, hooks Hooks, counters *Counters) (*Lane, error) {
	geometry, err := check(memory, welcome)
	if err != nil {
		return nil, err
	}
	if geometry.Lane.Protocol != protocol {
		return nil, fault.Violated("geometry", "a lane of protocol %d, asked for was %d", geometry.Lane.Protocol, protocol)
	}
	if err := welcome.Metadata.Model.Check(&geometry); err != nil {
		return nil, err
	}
	return NewLane(memory, geometry, spin, hooks, counters)
}

// check is the first to touch the memory.
func check(memory []byte, welcome doorbell.Welcome) (geometry segment.Geometry, err error) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if thrown := recover(); thrown != nil {
			gone := segment.Fault(memory, thrown)
			if gone == nil {
				panic(thrown)
			}
			err = fmt.Errorf("%w: %w", fault.ServerGone, gone)
		}
	}(debug.SetPanicOnFault(true))
	return segment.Check(memory, welcome.SegmentBytes, welcome.Epoch)
}

// run is the goroutine that ends the session. It lives as long as that.
func (s *Session) run() {
	s.ReadInBackground()
	err := s.bell.Why()
	s.cause.CompareAndSwap(nil, &err)
	s.End(*s.cause.Load())
	s.bell.Close()
	close(s.done)
}

// brokenBy ends the session because the server broke the protocol.
func (s *Session) brokenBy(violation error) {
	s.fail(fmt.Errorf("%w: %w", fault.ServerGone, violation))
}

// fail ends the session soon: the background reader does it.
func (s *Session) fail(cause error) {
	s.cause.CompareAndSwap(nil, &cause)
	s.beginEnd()
	s.left.Store(true) // before the server can see it
	s.bell.HangUp()
	s.callReader()
}

// Done is closed when the session has ended, its socket is closed and its goroutine is gone.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session ended. Valid after Done.
func (s *Session) Err() error { return *s.cause.Load() }

// Close fails every call in flight with cause, and waits until the session has ended.
func (s *Session) Close(cause error) {
	s.fail(cause)
	<-s.done
}
