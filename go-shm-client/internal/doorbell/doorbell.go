package doorbell

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// goodbyeTimeout is for the rest of a goodbye whose first byte has come. A server writes it in one piece.
const goodbyeTimeout = time.Second

// Doorbell is the socket after the handshake.
type Doorbell struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	ring func(fd uintptr) bool // made once: a bell allocates nothing
}

func newDoorbell(conn *net.UnixConn) (*Doorbell, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("doorbell: %w", err)
	}
	bell := []byte{layout.Bell}
	return &Doorbell{conn: conn, raw: raw, ring: func(fd uintptr) bool {
		// EAGAIN: bells are waiting in the socket already, and every wake looks at everything. Any other error is
		// a server that went away, which Listen learns from the same socket.
		_ = syscall.Sendto(int(fd), bell, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, nil)
		return true // never wait for room
	}}, nil
}

// Ring wakes the server.
func (d *Doorbell) Ring() { _ = d.raw.Write(d.ring) }

// Listen calls onBell with the number of bells that came together until the session ends, and says why it ended: a GoodbyeError, or
// fault.ServerGone with what happened.
func (d *Doorbell) Listen(onBell func(bells int)) error {
	var buffer [64]byte
	for {
		n, err := d.conn.Read(buffer[:])
		bells := 0
		for bells < n && buffer[bells] == layout.Bell {
			bells++
		}
		if bells > 0 {
			onBell(bells)
		}
		if bells < n {
			return d.readGoodbye(buffer[bells:n])
		}
		if hungUp(err) {
			return fmt.Errorf("%w: it closed the connection without a goodbye", fault.ServerGone)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", fault.ServerGone, err)
		}
	}
}

// hungUp is whether the peer closed the socket. It is reset when the peer closed before it had read every bell.
func hungUp(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

// readGoodbye reads on where the first byte of a message was seen.
func (d *Doorbell) readGoodbye(begun []byte) error {
	_ = d.conn.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	kind, body, err := readFrame(io.MultiReader(bytes.NewReader(begun), d.conn))
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

// HangUp ends the session from our side: Listen returns, and so does every later Ring. The descriptor stays open until Close.
func (d *Doorbell) HangUp() {
	_ = d.conn.CloseRead()
	_ = d.conn.CloseWrite()
}

// Close closes the socket.
func (d *Doorbell) Close() error { return d.conn.Close() }
