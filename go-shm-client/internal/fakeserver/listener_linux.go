package fakeserver

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// Classes are the names of the fake model's classes.
var Classes = []string{"dark", "bright"}

// Listener accepts sessions on a real socket and serves each on a real mapping.
type Listener struct {
	Path       string
	Slots      uint32 // of a session that asks for none
	Behaviour  func() Behaviour
	Prompts    func(*Server, layout.Submission) // nil, or what answers the prompts, of sessions of their own
	ClockAhead int64                            // of its clock, before the clients'
	Refuse     func() *doorbell.RefusedError    // nil, or what to answer a hello with
	Welcomed   func(*Session)                   // nil, or what to do when a welcome was sent

	listener *net.UnixListener
	mu       sync.Mutex
	sessions []*Session
	all      sync.WaitGroup
}

// Listen begins to accept.
func (l *Listener) Listen() error {
	var err error
	if l.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: l.Path, Net: "unix"}); err != nil {
		return err
	}
	l.all.Add(1)
	go func() {
		defer l.all.Done()
		for {
			conn, err := l.listener.AcceptUnix()
			if err != nil {
				return
			}
			if session := l.shake(conn); session != nil {
				l.all.Add(1)
				go func() {
					defer l.all.Done()
					behaviour := l.Behaviour()
					if session.lane.Kind == layout.LaneKindPrompt {
						behaviour.Answer = l.Prompts
					}
					session.run(behaviour)
				}()
			}
		}
	}()
	return nil
}

// Last is the session accepted last, or nil.
func (l *Listener) Last() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		return nil
	}
	return l.sessions[len(l.sessions)-1]
}

// Sessions are all that were accepted.
func (l *Listener) Sessions() []*Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sessions)
}

// Close stops accepting and kills every session.
func (l *Listener) Close() {
	l.listener.Close()
	l.mu.Lock()
	for _, session := range l.sessions {
		session.Kill()
	}
	l.mu.Unlock()
	l.all.Wait()
}

func (l *Listener) shake(conn *net.UnixConn) *Session {
	hello := make([]byte, layout.FrameBytes+layout.HelloBytes+layout.LaneRequestBytes)
	if _, err := io.ReadFull(conn, hello); err != nil {
		conn.Close()
		return nil
	}
	if l.Refuse != nil {
		if refusal := l.Refuse(); refusal != nil {
			conn.Write(ReasonMessage(layout.FrameKindRefusal, uint16(refusal.Reason), refusal.Message))
			conn.Close()
			return nil
		}
	}
	request := layout.DecodeLaneRequest(hello[layout.FrameBytes+layout.HelloBytes:])
	if request.Kind != layout.LaneKindImage && l.Prompts == nil {
		conn.Write(ReasonMessage(layout.FrameKindRefusal, layout.ReasonLaneUnavailable, "images only"))
		conn.Close()
		return nil
	}
	slots := request.SlotCount
	if slots == 0 {
		slots = l.Slots
	}
	header, lane := Header(slots)
	if request.Kind == layout.LaneKindPrompt {
		header, lane = PromptHeader(slots)
	}
	file := SharedFile(int64(header.SegmentBytes)) // closed by the session
	memory := must(syscall.Mmap(int(file.Fd()), 0, int(header.SegmentBytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED))
	Encode(memory, header, lane)
	session := newSession(conn, file, memory, lane)
	l.mu.Lock()
	l.sessions = append(l.sessions, session) // before the client can know that it is connected
	l.mu.Unlock()
	welcome := WelcomeMessage(header.SegmentBytes, Epoch, uint64(machine.Now()+l.ClockAhead))
	if _, _, err := conn.WriteMsgUnix(welcome, syscall.UnixRights(int(file.Fd())), nil); err != nil {
		session.close() // the client hung up
		return nil
	}
	if l.Welcomed != nil {
		l.Welcomed(session)
	}
	return session
}

// SharedFile is a file in memory that no name leads to. (memfd_create is not in package syscall.)
func SharedFile(size int64) *os.File {
	file := must(os.CreateTemp("/dev/shm", "fakeserver-*"))
	if err := os.Remove(file.Name()); err != nil {
		panic(err)
	}
	if err := file.Truncate(size); err != nil {
		panic(err)
	}
	return file
}

// WelcomeMessage is a whole welcome.
func WelcomeMessage(segmentBytes, epoch, clock uint64) []byte {
	metadata := must(json.Marshal(doorbell.Metadata{Server: "fakeserver", Model: "brightness", Classes: Classes}))
	body := make([]byte, layout.WelcomeBytes, layout.WelcomeBytes+len(metadata))
	layout.Welcome{
		LayoutMajor:   layout.LayoutMajor,
		LayoutMinor:   layout.LayoutMinor,
		MetadataBytes: uint32(len(metadata)),
		SegmentBytes:  segmentBytes,
		Epoch:         epoch,
		Clock:         clock,
	}.Encode(body)
	return Message(layout.FrameKindWelcome, append(body, metadata...))
}

// ReasonMessage is a whole refusal or goodbye.
func ReasonMessage(kind, reason uint16, text string) []byte {
	body := make([]byte, layout.ReasonBodyBytes)
	layout.ReasonBody{Reason: reason, MessageBytes: uint32(len(text))}.Encode(body)
	return Message(kind, append(body, text...))
}

// Message is a frame head and its body.
func Message(kind uint16, body []byte) []byte {
	head := make([]byte, layout.FrameBytes)
	layout.Frame{Magic: layout.FrameMagic, Kind: kind, BodyBytes: uint32(len(body))}.Encode(head)
	return append(head, body...)
}
