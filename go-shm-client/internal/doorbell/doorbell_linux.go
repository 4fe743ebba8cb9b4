package doorbell

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// goodbyePatience is for the rest of a goodbye whose first byte has come. A server writes it in one piece.
const goodbyePatience = time.Second

// Doorbell is the socket after the handshake.
type Doorbell struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	ring func(fd uintptr) bool // made once: a bell allocates nothing

	// Of whoever calls Wait.
	buffer  [64]byte
	goodbye []byte // of buffer: what came behind the last bell
	failure error
	over    bool

	patience time.Duration // goodbyePatience, but for tests
}

func newDoorbell(conn *net.UnixConn) (*Doorbell, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("doorbell: %w", err)
	}
	bell := []byte{layout.Bell}
	return &Doorbell{conn: conn, raw: raw, patience: goodbyePatience, ring: func(fd uintptr) bool {
		// EAGAIN: bells are waiting in the socket already, and every wake looks at everything. Any other error is
		// a server that went away, which Wait learns from the same socket.
		_ = syscall.Sendto(int(fd), bell, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, nil)
		return true // never wait for room
	}}, nil
}

// Ring wakes the server.
func (d *Doorbell) Ring() { _ = d.raw.Write(d.ring) }

// Wait waits for bells, and says how many came together; 0 when it was interrupted. over: the session has ended, and
// Why says why. One goroutine at a time calls Wait and Why.
func (d *Doorbell) Wait() (bells int, over bool) {
	if d.over {
		return 0, true
	}
	n, err := d.conn.Read(d.buffer[:])
	for bells < n && d.buffer[bells] == layout.Bell {
		bells++
	}
	d.goodbye = d.buffer[bells:n]
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		_ = d.conn.SetReadDeadline(time.Time{})
		err = nil
	}
	d.failure = err
	d.over = err != nil || len(d.goodbye) > 0
	return bells, d.over
}

// Interrupt makes Wait return soon, the one that waits or else the next one. Any goroutine.
func (d *Doorbell) Interrupt() { _ = d.conn.SetReadDeadline(time.Unix(1, 0)) }

// Why is why the session ended: a GoodbyeError, or fault.ServerGone with what happened. Valid when Wait has said that it is over.
func (d *Doorbell) Why() error {
	switch {
	case len(d.goodbye) > 0:
		return d.readGoodbye()
	case hungUp(d.failure):
		return fmt.Errorf("%w: it closed the connection without a goodbye", fault.ServerGone)
	}
	return fmt.Errorf("%w: %w", fault.ServerGone, d.failure)
}

// readGoodbye reads on where the first byte of a message was seen.
func (d *Doorbell) readGoodbye() error {
	patient := &patientReader{d.conn, time.Now().Add(d.patience)}
	kind, body, err := readFrame(io.MultiReader(bytes.NewReader(d.goodbye), patient))
	if err != nil {
		return fmt.Errorf("%w: %w", fault.ServerGone, err)
	}
	if kind != layout.FrameKindGoodbye {
		return fmt.Errorf("%w: %w", fault.ServerGone, fault.Violated("frame", "message of kind %d after the handshake", kind))
	}
	reason, message, err := decodeReason(body)
	if err != nil {
		return fmt.Errorf("%w: %w", fault.ServerGone, err)
	}
	return &GoodbyeError{reason, message}
}

// patientReader reads until a time. An Interrupt that was meant for Wait does not end it.
type patientReader struct {
	conn  *net.UnixConn
	until time.Time
}

func (r *patientReader) Read(b []byte) (int, error) {
	for {
		_ = r.conn.SetReadDeadline(r.until)
		n, err := r.conn.Read(b)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(r.until) {
			return n, err
		}
	}
}

// HangUp ends the session from our side: Wait returns, and so does every later Ring. The descriptor stays open until Close.
func (d *Doorbell) HangUp() {
	_ = d.conn.CloseRead()
	_ = d.conn.CloseWrite()
}

// Close closes the socket.
func (d *Doorbell) Close() error { return d.conn.Close() }
