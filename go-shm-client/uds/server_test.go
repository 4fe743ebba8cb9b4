package uds_test

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A server speaks the protocol, written anew, until answer says otherwise.
type server struct {
	path     string
	listener net.Listener
	answer   func(socket net.Conn, packet []byte) bool // of a whole packet; false hangs up

	mu       sync.Mutex
	sockets  map[net.Conn]bool
	accepted int
	packets  int
	all      sync.WaitGroup
}

// start starts a server at path, "" for a new one. A nil answer is what a correct server answers.
func start(t *testing.T, path string, answer func(net.Conn, []byte) bool) *server {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "uds")
	}
	if answer == nil {
		answer = correct
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{path: path, listener: listener, answer: answer, sockets: make(map[net.Conn]bool)}
	s.all.Add(1)
	go s.accept()
	t.Cleanup(s.stop)
	return s
}

func (s *server) accept() {
	defer s.all.Done()
	for {
		socket, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.sockets[socket] = true
		s.accepted++
		s.mu.Unlock()
		s.all.Add(1)
		go s.serve(socket)
	}
}

func (s *server) serve(socket net.Conn) {
	defer s.all.Done()
	defer func() {
		socket.Close()
		s.mu.Lock()
		delete(s.sockets, socket)
		s.mu.Unlock()
	}()
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(socket, head); err != nil {
			return
		}
		packet := append(head, make([]byte, binary.BigEndian.Uint32(head))...)
		if _, err := io.ReadFull(socket, packet[4:]); err != nil {
			return
		}
		s.mu.Lock()
		s.packets++
		s.mu.Unlock()
		if !s.answer(socket, packet) {
			return
		}
	}
}

// stop kills the server and all its connections.
func (s *server) stop() {
	s.listener.Close()
	s.mu.Lock()
	for socket := range s.sockets {
		socket.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// waitForPackets waits until the server has read n packets.
func (s *server) waitForPackets(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.packets >= n
	})
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

func (s *server) connections() (open, accepted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets), s.accepted
}

// correct echoes, and calls a picture by its first pixel.
func correct(socket net.Conn, packet []byte) bool {
	if packet[4] == 1 {
		packet = reply(1, map[bool]string{false: "dunkelgrün", true: "bright"}[packet[5] > 127])
	}
	_, err := socket.Write(packet)
	return err == nil
}

func reply(kind byte, body string) []byte {
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(packet, kind), body...)
}
