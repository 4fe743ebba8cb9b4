// Package uds calls a model through shm-server's Unix-socket protocol (`shm-server serve --uds`): the simple
// alternative to shared memory, which costs a call two copies and a few system calls on either side.
//
//	client, err := uds.Dial(ctx, uds.DefaultSocket)
//	defer client.Close()
//	label, err := client.Classify(ctx, pixels)
//
// A packet is a 4-byte big-endian length, which counts what follows it, a byte that is 0 for echo and 1 for classify,
// and a body. A connection carries one call at a time; a Client has as many as there are calls at a time, and is safe
// for concurrent use. Errors are those of package shm, shm.ErrNotRun among them.
package uds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/peer"
)

const (
	// DefaultSocket is where `shm-server serve --uds` listens unless told otherwise.
	DefaultSocket = "/tmp/imageserver.sock"

	// DefaultConnections is how many connections a client opens at most. Each is a thread of the server, and Python runs
	// one thread at a time: more than a few only wait there instead of here.
	DefaultConnections = 64

	// MaxPayload is the largest payload of an echo that a server takes.
	MaxPayload = maxLength - 1
)

// A ForeignServerError is a server of another user, which is not talked to unless Options.ServerUsers or Options.AnyServer says so. It is
// os.ErrPermission.
type ForeignServerError = peer.ForeignServerError

// A Client calls a server over a pool of connections. Use Dial to get one.
type Client struct {
	path  string
	trust peer.Trust
	idle  chan *conn    // connections that nobody uses
	slots chan struct{} // an entry for each connection that is open or being opened

	mu     sync.Mutex
	open   map[*conn]struct{} // nil once closed
	closed chan struct{}
}

// Options are what a client can be told. The zero Options are those of a client that was told nothing.
type Options struct {
	Connections int   // open at most; when all of them are in use, calls wait. 0 is DefaultConnections
	ServerUsers []int // ids of users whose servers are trusted, besides the own user's and root's
	AnyServer   bool  // trust every server that listens at the path, whoever runs it
}

// Dial connects to the server that listens at path; "" is DefaultSocket. ctx bounds the dialling only. Further
// connections are made when they are needed. Close the client when it is not needed any more.
func Dial(ctx context.Context, path string, options ...Options) (*Client, error) {
	if path == "" {
		path = DefaultSocket
	}
	var o Options
	switch {
	case len(options) > 1:
		return nil, fmt.Errorf("uds: %d Options, expected one at most", len(options))
	case len(options) == 1:
		o = options[0]
	}
	if o.Connections < 0 {
		return nil, fmt.Errorf("uds: Options.Connections: %d, expected 0 (%d) or more", o.Connections, DefaultConnections)
	}
	trust, err := peer.Trusting(o.AnyServer, o.ServerUsers)
	if err != nil {
		return nil, fmt.Errorf("uds: %w", err)
	}
	connections := cmp.Or(o.Connections, DefaultConnections)
	c := &Client{
		path: path, trust: trust, open: make(map[*conn]struct{}), closed: make(chan struct{}),
		idle: make(chan *conn, connections), slots: make(chan struct{}, connections),
	}
	first, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	c.give(first)
	return c, nil
}

// Classify returns the label of 3072 bytes of pixels: 1024 red, 1024 green, 1024 blue, each row by row from the top.
// When the model fails, the server can only hang up: ErrServerGone.
func (c *Client) Classify(ctx context.Context, pixels []byte) (string, error) {
	if len(pixels) != fault.PixelBytes {
		return "", fmt.Errorf("%w: got %d", fault.PixelCount, len(pixels))
	}
	conn, answer, err := c.call(ctx, typeClassify, pixels)
	if err != nil {
		return "", err
	}
	defer c.give(conn)
	return string(answer), nil
}

// Echo sends payload, MaxPayload bytes at most, and returns what came back.
func (c *Client) Echo(ctx context.Context, payload []byte) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, fault.As(fmt.Errorf("uds: a payload of %d bytes, at most %d", len(payload), MaxPayload), fault.NotRun)
	}
	conn, answer, err := c.call(ctx, typeEcho, payload)
	if err != nil {
		return nil, err
	}
	defer c.give(conn)
	return append(make([]byte, 0, len(answer)), answer...), nil
}

// call makes one call. The answer is the connection's, which is to be given back once it was copied.
func (c *Client) call(ctx context.Context, kind byte, body []byte) (conn *conn, answer []byte, err error) {
	if conn, err = c.take(ctx); err != nil {
		return nil, nil, fault.As(err, fault.NotRun)
	}
	if answer, err = conn.call(ctx, kind, body); err != nil {
		return nil, nil, c.explain(ctx, err, conn)
	}
	return conn, answer, nil
}

// Close fails the calls in flight with ErrClosed and closes every connection. Closing twice does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		close(c.closed)
		for conn := range c.open {
			conn.Close()
		}
		c.open = nil
	}
	return nil
}

// take gets an idle connection, opens one, or waits for one.
func (c *Client) take(ctx context.Context) (*conn, error) {
	switch {
	case ctx.Err() != nil:
		return nil, fault.Context(ctx)
	case c.isClosed():
		return nil, errClosed
	}
	select {
	case conn := <-c.idle:
		return conn, nil
	default:
	}
	select {
	case conn := <-c.idle:
		return conn, nil
	case c.slots <- struct{}{}:
		return c.connect(ctx)
	case <-c.closed:
		return nil, errClosed
	case <-ctx.Done():
		return nil, fault.Context(ctx)
	}
}

var errClosed = fmt.Errorf("uds client: %w", fault.Closed)

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// connect opens a connection in the slot that was taken for it.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, c.explain(ctx, err, nil)
	}
	if err := c.trust.Check(socket.(*net.UnixConn), c.path); err != nil {
		socket.Close()
		<-c.slots
		return nil, err
	}
	conn := newConn(socket)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		conn.Close()
		return nil, errClosed
	}
	c.open[conn] = struct{}{}
	return conn, nil
}

// give makes a connection idle after a call that left nothing of itself on it.
func (c *Client) give(conn *conn) {
	if conn.spoilt {
		c.drop(conn)
		return
	}
	c.idle <- conn // has room for every connection
}

// drop closes a connection, or gives up opening one where conn is nil.
func (c *Client) drop(conn *conn) {
	if conn != nil {
		conn.Close()
		c.mu.Lock()
		delete(c.open, conn)
		c.mu.Unlock()
	}
	<-c.slots
}

// explain drops a connection on which a call failed, and says whose doing it was.
func (c *Client) explain(ctx context.Context, err error, conn *conn) error {
	c.drop(conn)
	switch {
	case c.isClosed():
		return errClosed
	case ctx.Err() != nil:
		return fault.Context(ctx)
	case errors.Is(err, fault.Protocol):
		return err
	}
	// A server that hung up on one connection has most likely hung up on all: let later calls not find out one by one.
	for {
		select {
		case other := <-c.idle:
			c.drop(other)
		default:
			return fmt.Errorf("%w: %w", fault.ServerGone, err)
		}
	}
}
