package fakeserver

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// Session is one client's session.
type Session struct {
	*Server
	Conn   *net.UnixConn
	Silent atomic.Bool                      // once its memory is gone it says nothing, not even by dying
	answer func(*Server, layout.Submission) // the model's, or nil
	file   *os.File
	memory []byte
	bells  chan struct{}
	stop   chan struct{}
	once   sync.Once
}

func newSession(conn *net.UnixConn, file *os.File, memory []byte, g segment.Geometry) *Session {
	s := &Session{Conn: conn, file: file, memory: memory, bells: make(chan struct{}, 1), stop: make(chan struct{})}
	bell := []byte{layout.Bell}
	s.Server = New(memory, g, func() { _, _ = conn.Write(bell) })
	return s
}

func (s *Session) run(b Behaviour) {
	if b.Answer == nil {
		b.Answer = EchoOrClassify
	}
	var reader sync.WaitGroup
	reader.Add(1)
	go func() {
		defer reader.Done()
		defer s.Kill()
		var buffer [64]byte
		for {
			n, err := s.Conn.Read(buffer[:])
			for _, b := range buffer[:n] {
				if b != layout.Bell {
					panic("client sent a byte that is no bell")
				}
			}
			if err != nil || n == 0 {
				return
			}
			select {
			case s.bells <- struct{}{}:
			default: // one is waiting
			}
		}
	}()
	s.serve(b)
	s.Conn.Close()
	reader.Wait()
	s.close()
}

func (s *Session) close() {
	s.Conn.Close()
	_ = syscall.Munmap(s.memory)
	s.file.Close()
}

// serve serves until Kill, or until it touches a page of its segment that Truncate took away: then it dies, or falls silent.
func (s *Session) serve(b Behaviour) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if thrown := recover(); thrown != nil {
			if segment.Fault(s.memory, thrown) == nil {
				panic(thrown)
			}
			if s.Silent.Load() {
				<-s.stop
			}
		}
	}()
	s.Server.Run(b, s.bells, s.stop)
}

// Truncate cuts the segment's file down to size bytes, under the mappings of both sides, unless the session is over.
func (s *Session) Truncate(size int64) {
	if err := s.file.Truncate(size); err != nil && !errors.Is(err, os.ErrClosed) {
		panic(err)
	}
}

// Bell rings the client's bell, whatever there is to tell.
func (s *Session) Bell() { _, _ = s.Conn.Write([]byte{layout.Bell}) }

// Kill ends the session without a word.
func (s *Session) Kill() { s.once.Do(func() { close(s.stop) }) }

// Goodbye ends the session with a reason.
func (s *Session) Goodbye(reason uint16, text string) {
	_, _ = s.Conn.Write(ReasonMessage(layout.FrameKindGoodbye, reason, text))
	s.Kill()
}

// EchoOrClassify does what a submission asks for. The model tells dark from bright by the first pixel, and fails
// for the value 13.
func EchoOrClassify(s *Server, got layout.Submission) {
	if got.Op == layout.OpEcho {
		s.Echo(got)
		return
	}
	if s.Input(0, got.Slot)[0] == 13 {
		s.Fail(got, layout.StatusModelError, "thirteen is unlucky")
		return
	}
	bright := float32(s.Input(0, got.Slot)[0]) / 255
	scores := s.Output(0, got.Slot)
	binary.LittleEndian.PutUint32(scores[0:], math.Float32bits(1-bright))
	binary.LittleEndian.PutUint32(scores[4:], math.Float32bits(bright))
	s.Answer(got, layout.Completion{Batch: 1, QueueNS: 1000, ModelNS: 2000})
}
