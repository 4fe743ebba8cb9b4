package doorbell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/peer"
)

// handshakeTimeout ends a handshake with a server that accepts and says nothing. The server itself waits 5 s for a
// hello; a model that is being loaded does not listen yet.
const handshakeTimeout = 10 * time.Second

// maxPath is how long a Unix socket's path can be: sockaddr_un has 108 bytes, the last one is 0.
const maxPath = 107

// connect connects to the server at path, if it is one to trust, and has talk exchange the first messages. The socket is the
// caller's; where talk fails, it is closed. what says in errors what failed.
func connect(ctx context.Context, path string, trust peer.Trust, what string, talk func(context.Context, *net.UnixConn) error) (*net.UnixConn, error) {
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(bounded, "unix", path)
	if err != nil {
		return nil, explainConnect(ctx, path, err)
	}
	unix := conn.(*net.UnixConn)
	if err := trust.Check(unix, path); err != nil {
		unix.Close()
		return nil, err
	}
	if err := talk(bounded, unix); err != nil {
		unix.Close()
		switch { // what failed may be the deadline that exchange set
		case ctx.Err() != nil:
			err = fault.Context(ctx)
		case bounded.Err() != nil:
			err = fmt.Errorf("%w: it accepted, and has said nothing for %v", fault.ServerGone, handshakeTimeout)
		}
		return nil, fmt.Errorf("%s shm-server at %s: %w", what, path, err)
	}
	return unix, nil
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
	case errors.Is(err, context.DeadlineExceeded): // ctx is about to say so
		err = fault.DeadlineExceeded
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

// exchange sends the client's first message and reads the server's from answers, which reads conn. It returns the body of an
// answer of the kind that is expected, a RefusedError for a refusal, and ends with ctx.
func exchange(ctx context.Context, conn *net.UnixConn, message []byte, answers io.Reader, expected uint16) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(message); err != nil && !errors.Is(err, syscall.EPIPE) {
		return nil, fmt.Errorf("send the first message: %w", err) // EPIPE: it may have said why before it closed
	}
	kind, body, err := readFrame(answers)
	switch {
	case err != nil && (hungUp(err) || errors.Is(err, io.ErrUnexpectedEOF)):
		return nil, fmt.Errorf("%w: it hung up instead of answering", fault.ServerGone)
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case kind == layout.FrameKindRefusal:
		reason, message, err := decodeReason(body)
		if err != nil {
			return nil, err
		}
		return nil, &RefusedError{reason, message}
	case kind != expected:
		return nil, fault.Violated("frame", "message of kind %d, expected %d", kind, expected)
	}
	if !stop() { // too late: the deadline is set, or about to be
		return nil, ctx.Err()
	}
	return body, nil
}

// hungUp is whether the peer closed the socket. It is reset when the peer closed before it had read all that we sent.
func hungUp(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }
