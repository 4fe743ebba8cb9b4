package shm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/session"
)

// A Client is a connection to a server that is made again when it breaks. Use Dial to get one.
type Client struct {
	path     string
	options  options
	counters session.Counters
	current  atomic.Pointer[connection] // nil while there is none

	mu         sync.Mutex
	closed     bool
	down       error         // why there is no session
	info       Info          // of the last session
	changed    chan struct{} // closed and replaced when current, down or closed change
	reconnects uint64

	stop context.CancelFunc // of the goroutine that maintains the connection
	gone chan struct{}      // closed when it has returned
}

// connection is a session and the leases of its slots.
type connection struct {
	*session.Session
	leases []lease
}

// Info is what the server says about itself.
type Info struct {
	Server  string
	Model   string
	Classes []string // by Result.Class; do not modify
	Slots   int      // calls in flight at a time
}

// Dial connects to the server that listens at path; "" is DefaultSocket. ctx bounds the dialling only. Close the client
// when it is not needed any more.
func Dial(ctx context.Context, path string, opts ...Option) (*Client, error) {
	if path == "" {
		path = DefaultSocket
	}
	c := &Client{path: path, options: collect(opts), changed: make(chan struct{}), gone: make(chan struct{})}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.adopt(conn)
	go c.maintain(life, conn)
	return c, nil
}

func (c *Client) connect(ctx context.Context) (*connection, error) {
	s, err := session.Dial(ctx, c.path, c.options.slots, c.options.spin, &c.counters)
	if err != nil {
		return nil, err
	}
	conn := &connection{Session: s, leases: make([]lease, s.Slots())}
	for slot := range conn.leases {
		conn.leases[slot].session, conn.leases[slot].slot = s, uint32(slot)
	}
	return conn, nil
}

// Close fails the calls in flight with ErrClosed and closes the connection. Slots that are still leased keep their
// memory until they are released. Closing twice does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.down = fmt.Errorf("shm client: %w", ErrClosed)
		c.broadcast()
	}
	c.mu.Unlock()
	c.stop()
	<-c.gone
	return nil
}

// connection is the one for a new call.
func (c *Client) connection() (*connection, error) {
	if conn := c.current.Load(); conn != nil {
		return conn, nil // should it have ended just now, it says so itself
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return nil, c.down
}

// WaitReady waits until the client is connected. It returns an error when ctx ends or the client is closed.
func (c *Client) WaitReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		changed, closed, down := c.changed, c.closed, c.down
		c.mu.Unlock()
		if closed {
			return down
		}
		if conn := c.current.Load(); conn != nil {
			select {
			case <-conn.Done(): // maintain is about to notice
			default:
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", fault.Context(ctx), down)
		}
	}
}

// Info is what the server said when the client last connected.
func (c *Client) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}
