package uds

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"

	"go-shm-client/internal/fault"
)

const (
	typeEcho     = 0
	typeClassify = 1

	headBytes = 5       // length and type
	maxLength = 1 << 20 // of a packet, which the server does not exceed either
)

// A conn is one connection, used by one call at a time.
type conn struct {
	net.Conn
	packet []byte // sent, then received
	spoilt bool   // there may be something of a call left on it
	abort  func() // makes reads and writes return at once
}

func newConn(socket net.Conn) *conn {
	c := &conn{Conn: socket, packet: make([]byte, 0, headBytes+fault.PixelBytes)}
	c.abort = func() { socket.SetDeadline(time.Unix(1, 0)) }
	return c
}

// call sends a packet and returns the body of the one that answers it, which is valid until the next call. After an
// error the connection must not be used again.
func (c *conn) call(ctx context.Context, kind byte, body []byte) ([]byte, error) {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.abort)
		defer func() {
			c.spoilt = !stop() // then the deadline is set, or soon will be
		}()
	}
	packet := append(c.packet[:0], 0, 0, 0, 0, kind)
	binary.BigEndian.PutUint32(packet, uint32(1+len(body)))
	c.packet = append(packet, body...)
	if _, err := c.Write(c.packet); err != nil {
		return nil, err
	}
	return c.receive(kind)
}

func (c *conn) receive(kind byte) ([]byte, error) {
	packet := c.packet[:cap(c.packet)]
	n, err := io.ReadAtLeast(c, packet, headBytes)
	if err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(packet)
	if length < 1 || length > maxLength {
		return nil, fault.Violated("length", "%d, must be 1 to %d", length, maxLength)
	}
	if packet[4] != kind {
		return nil, fault.Violated("type", "a packet of type %d answers one of type %d", packet[4], kind)
	}
	size := 4 + int(length)
	if n > size {
		return nil, fault.Violated("length", "%d bytes after the packet", n-size)
	}
	if size > len(packet) {
		packet = slices.Grow(packet[:n], size-n)
		c.packet = packet
	}
	packet = packet[:size]
	if _, err := io.ReadFull(c, packet[n:]); err != nil {
		return nil, err
	}
	return packet[headBytes:], nil
}
