package doorbell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/peer"
)

// handshakeTimeout ends a handshake with a server that accepts and says nothing. The server itself waits 5 s for a
// hello; a model that is being loaded does not listen yet.
const handshakeTimeout = 10 * time.Second

// maxPath is how long a Unix socket's path can be: sockaddr_un has 108 bytes, the last one is 0.
const maxPath = 107

// A Welcome is the server's yes, checked as far as the message alone can be.
type Welcome struct {
	layout.Welcome
	Metadata   Metadata
	ClockAhead int64 // the server's clock less ours, in ns: 0 unless it lives in another time namespace
}

// Dial connects to the server at path, if it is one to trust, and asks for one lane for each request. The descriptor is the
// segment's; it belongs to the caller.
func Dial(ctx context.Context, path string, trust peer.Trust, lanes ...layout.LaneRequest) (*Doorbell, Welcome, int, error) {
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(bounded, "unix", path)
	if err != nil {
		return nil, Welcome{}, -1, explainConnect(ctx, path, err)
	}
	unix := conn.(*net.UnixConn)
	if err := trust.Check(unix, path); err != nil {
		unix.Close()
		return nil, Welcome{}, -1, err
	}
	before := machine.Now()
	welcome, fd, err := shake(bounded, unix, lanes)
	welcome.ClockAhead = clockAhead(before, welcome.Clock, machine.Now())
	if err != nil {
		unix.Close()
		switch { // what failed may be the deadline that stop() set
		case ctx.Err() != nil:
			err = fault.Context(ctx)
		case bounded.Err() != nil:
			err = fmt.Errorf("%w: it accepted, and has said nothing for %v", fault.ServerGone, handshakeTimeout)
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

// explainConnect says why there is no connection, and what to do. Where nobody listens, it is fault.ServerGone.
func explainConnect(ctx context.Context, path string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without it the path would stand in the message twice
	}
	gone, hint := false, ""
	switch {
	case ctx.Err() != nil:
		err = fault.Context(ctx)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		gone, hint = true, ": is `shm-server serve` running?"
	case errors.Is(err, syscall.EAGAIN):
		gone, hint = true, ": more clients are connecting than its queue takes"
	case errors.Is(err, syscall.EACCES):
		hint = ": the socket, or a directory on the way to it, is another user's"
	case len(path) > maxPath:
		hint = fmt.Sprintf(": a path of %d bytes, a Unix socket's has at most %d", len(path), maxPath)
	}
	err = fmt.Errorf("connect to shm-server at %s: %w%s", path, err, hint)
	if gone {
		return fault.As(err, fault.ServerGone)
	}
	return err
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

// clockAhead compares the server's clock, which it read between two readings of ours; layout.md, "Welcome".
func clockAhead(before int64, server uint64, after int64) int64 {
	const slack = int64(time.Millisecond) // our reading is the kernel's to some microseconds
	read := int64(server)
	if read == 0 || read >= before-slack && read <= after+slack {
		return 0
	}
	return read - (before + (after-before)/2)
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
	case w.Clock > math.MaxInt64:
		return Welcome{}, fault.Violated("clock", "a clock that reads %d ns", w.Clock)
	}
	if err := json.Unmarshal(metadata[:w.MetadataBytes], &w.Metadata); err != nil {
		return Welcome{}, fault.Violated("frame", "metadata: %v", err)
	}
	return w, nil
}
