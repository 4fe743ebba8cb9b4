package fakeserver

import (
	"encoding/json"
	"fmt"
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

// Listener accepts sessions on a real socket and serves each on a real mapping.
type Listener struct {
	Path         string
	Slots        uint32 // of a session that asks for none
	Behaviour    func() Behaviour
	Models       func(name string) *Model                  // nil, or the call models besides Brightness, "" the default; nil: none of that name
	Prompts      func(*Server, layout.Submission)          // nil, or what answers the prompts
	StreamModels func(name string) *Model                  // nil, or the models that answer prompts; nil: none of that name
	ClockAhead   int64                                     // of its clock, before the clients'
	Refuse       func(model string) *doorbell.RefusedError // nil, or what to answer a hello with
	Welcomed     func(*Session)                            // nil, or what to do when a welcome was sent
	Asked        func(question string) []byte              // the whole message to answer a question with; nil: it is refused

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
					if session.answer != nil {
						behaviour.Answer = session.answer
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

// Change changes how hellos are answered from now on.
func (l *Listener) Change(how func(*Listener)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	how(l)
}

func (l *Listener) shake(conn *net.UnixConn) *Session {
	refuse := func(reason uint16, text string) *Session {
		conn.Write(ReasonMessage(layout.FrameKindRefusal, reason, text))
		conn.Close()
		return nil
	}
	kind, body, err := readFirst(conn)
	if err != nil {
		conn.Close()
		return nil
	}
	l.mu.Lock()
	refuses, asked := l.Refuse, l.Asked
	l.mu.Unlock()
	if kind == layout.FrameKindQuestion {
		if asked == nil {
			return refuse(layout.ReasonMalformed, fmt.Sprintf("unknown question %q", body))
		}
		conn.Write(asked(string(body)))
		conn.Close()
		return nil
	}
	hello, name := decodeHello(body)
	l.mu.Lock()
	model := l.model(hello.Protocol, name)
	l.mu.Unlock()
	if refuses != nil {
		if refusal := refuses(name); refusal != nil {
			return refuse(uint16(refusal.Reason), refusal.Message)
		}
	}
	slots := hello.SlotCount
	if slots == 0 {
		slots = l.Slots
	}
	if model == nil {
		return refuse(layout.ReasonNoSuchModel, fmt.Sprintf("no model %q of protocol %d; there is brightness", name, hello.Protocol))
	}
	g := Prompts(slots)
	if hello.Protocol == layout.ProtocolCall {
		asked := *model
		if hello.InputExtent > 0 {
			asked.Bound = hello.InputExtent
		}
		g = Plan(asked, slots)
	}
	file := SharedFile(int64(g.SegmentBytes)) // closed by the session
	memory := must(syscall.Mmap(int(file.Fd()), 0, int(g.SegmentBytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED))
	Encode(memory, g)
	session := newSession(conn, file, memory, g)
	session.answer = model.Answer
	l.mu.Lock()
	l.sessions = append(l.sessions, session) // before the client can know that it is connected
	l.mu.Unlock()
	welcome := WelcomeMessage(g.SegmentBytes, Epoch, uint64(machine.Now()+l.ClockAhead), model.Signature)
	if _, _, err := conn.WriteMsgUnix(welcome, syscall.UnixRights(int(file.Fd())), nil); err != nil {
		session.close() // the client hung up
		return nil
	}
	if l.Welcomed != nil {
		l.Welcomed(session)
	}
	return session
}

func (l *Listener) model(protocol uint32, name string) *Model {
	if protocol == layout.ProtocolStream {
		if l.StreamModels != nil {
			return l.StreamModels(name)
		}
		if l.Prompts == nil || name != "" {
			return nil
		}
		return &Model{Signature: Scribe.Signature, Answer: l.Prompts}
	}
	if l.Models != nil {
		if model := l.Models(name); model != nil {
			return model
		}
	}
	if name != "" && name != Brightness.Name {
		return nil
	}
	return &Brightness
}

// readFirst reads a hello or a question.
func readFirst(conn *net.UnixConn) (kind uint16, body []byte, err error) {
	var head [layout.FrameBytes]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return 0, nil, err
	}
	frame := layout.DecodeFrame(head[:])
	if frame.Kind != layout.FrameKindHello && frame.Kind != layout.FrameKindQuestion || frame.BodyBytes > layout.MaxFrameBody {
		panic(fmt.Sprintf("a first message of kind %d and %d bytes", frame.Kind, frame.BodyBytes))
	}
	body = make([]byte, frame.BodyBytes)
	_, err = io.ReadFull(conn, body)
	return frame.Kind, body, err
}

func decodeHello(body []byte) (hello layout.Hello, model string) {
	hello, model = layout.DecodeHello(body), string(body[layout.HelloBytes:])
	if len(model) != int(hello.ModelBytes) || len(model) > layout.MaxModelNameBytes {
		panic("a hello whose sizes disagree")
	}
	return hello, model
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
func WelcomeMessage(segmentBytes, epoch, clock uint64, model doorbell.Signature) []byte {
	metadata := must(json.Marshal(doorbell.Metadata{Server: "fakeserver", Model: model}))
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

// AnswerMessage is the whole answer to the question which models there are.
func AnswerMessage(models ...doorbell.ModelInfo) []byte {
	return Message(layout.FrameKindAnswer, must(json.Marshal(append([]doorbell.ModelInfo{}, models...))))
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
