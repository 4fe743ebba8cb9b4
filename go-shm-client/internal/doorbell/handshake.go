package doorbell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// handshakeTimeout ends a handshake with a server that accepts and says nothing. The server itself waits 5 s for a
// hello; a model that is being loaded does not listen yet.
const handshakeTimeout = 10 * time.Second

// Metadata is what the server says about itself.
type Metadata struct {
	Server  string   `json:"server"`
	Model   string   `json:"model"`
	Classes []string `json:"classes"`
}

// A Welcome is the server's yes, checked as far as the message alone can be.
type Welcome struct {
	layout.Welcome
	Metadata Metadata
}

// Dial connects to the server at path and asks for one lane for each request. The descriptor is the segment's; it
// belongs to the caller.
func Dial(ctx context.Context, path string, lanes ...layout.LaneRequest) (*Doorbell, Welcome, int, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without it the path would stand in the message twice
		}
		return nil, Welcome{}, -1, fmt.Errorf("connect to shm-server at %s: %w: is `shm-server serve` running?", path, err)
	}
	unix := conn.(*net.UnixConn)
	welcome, fd, err := shake(ctx, unix, lanes)
	if err != nil {
		unix.Close()
		if ctx.Err() != nil { // what failed was the deadline that stop() set
			err = fault.Context(ctx)
		}
		return nil, Welcome{}, -1, fmt.Errorf("handshake with shm-server at %s: %w", path, err)
	}
	bell, err := newDoorbell(unix)
	if err != nil {
		unix.Close()
		syscall.Close(fd)
		return nil, Welcome{}, -1, err
	}
	return bell, welcome, fd, nil
}

func shake(ctx context.Context, conn *net.UnixConn, lanes []layout.LaneRequest) (Welcome, int, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(encodeFrame(layout.FrameKindHello, encodeHello(lanes))); err != nil && !errors.Is(err, syscall.EPIPE) {
		return Welcome{}, -1, fmt.Errorf("send hello: %w", err) // EPIPE: it may have said why before it closed
	}
	var rights rightsReader
	rights.conn = conn
	defer rights.closeAll()
	kind, body, err := readFrame(&rights)
	switch {
	case err != nil && (hungUp(err) || errors.Is(err, io.ErrUnexpectedEOF)):
		return Welcome{}, -1, fmt.Errorf("%w: it hung up instead of answering", fault.ServerGone)
	case err != nil:
		return Welcome{}, -1, fmt.Errorf("read welcome: %w", err)
	case kind == layout.FrameKindRefusal:
		reason, message, err := decodeReason(body)
		if err != nil {
			return Welcome{}, -1, err
		}
		return Welcome{}, -1, &RefusedError{reason, message}
	case kind != layout.FrameKindWelcome:
		return Welcome{}, -1, fault.Violated("frame", "message of kind %d instead of a welcome", kind)
	}
	welcome, err := decodeWelcome(body)
	if err != nil {
		return Welcome{}, -1, err
	}
	if !stop() { // too late: the deadline is set, or about to be
		return Welcome{}, -1, ctx.Err()
	}
	fd, err := rights.take()
	return welcome, fd, err
}

func encodeHello(lanes []layout.LaneRequest) []byte {
	body := make([]byte, layout.HelloBytes+len(lanes)*layout.LaneRequestBytes)
	layout.Hello{
		LayoutMajor: layout.LayoutMajor,
		LayoutMinor: layout.LayoutMinor,
		LaneCount:   uint32(len(lanes)),
	}.Encode(body)
	for i, lane := range lanes {
		lane.Encode(body[layout.HelloBytes+i*layout.LaneRequestBytes:])
	}
	return body
}

func decodeWelcome(body []byte) (Welcome, error) {
	if len(body) < layout.WelcomeBytes {
		return Welcome{}, fault.Violated("frame", "welcome of %d bytes, not %d", len(body), layout.WelcomeBytes)
	}
	w := Welcome{Welcome: layout.DecodeWelcome(body)}
	metadata := body[layout.WelcomeBytes:]
	switch {
	case w.LayoutMajor != layout.LayoutMajor:
		return Welcome{}, fault.Violated("version", "the server speaks layout major %d, this client %d", w.LayoutMajor, layout.LayoutMajor)
	case uint64(w.MetadataBytes) > uint64(len(metadata)):
		return Welcome{}, fault.Violated("frame", "metadata of %d bytes in a body with room for %d", w.MetadataBytes, len(metadata))
	case w.SegmentBytes < layout.HeaderBytes || w.SegmentBytes > layout.MaxSegmentBytes:
		return Welcome{}, fault.Violated("geometry", "segment of %d bytes, not %d to %d", w.SegmentBytes, layout.HeaderBytes, layout.MaxSegmentBytes)
	case w.Epoch == 0:
		return Welcome{}, fault.Violated("epoch", "epoch 0")
	}
	if err := json.Unmarshal(metadata[:w.MetadataBytes], &w.Metadata); err != nil {
		return Welcome{}, fault.Violated("frame", "metadata: %v", err)
	}
	return w, nil
}
