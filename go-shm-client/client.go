package shm

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// A Client is a connection to a server that is made again when it breaks. Use Dial to get one.
type Client struct {
	path     string
	options  options
	counters session.Counters
	images   *link
	prompts  atomic.Pointer[link] // nil until the first prompt
	dialling chan struct{}        // holds one token: for who makes prompts
	life     context.Context      // until Close
	stop     context.CancelFunc
}

// Info is what the server says about itself.
type Info struct {
	Server  string
	Model   string
	Classes []string // by Result.Class; do not modify
	Slots   int      // calls in flight at a time
}

// Dial connects to the server that listens at path; "" is DefaultSocket(). ctx bounds the dialling only. Where nobody
// listens it fails with ErrServerGone, or waits: see WaitForServer. Close the client when it is not needed any more.
func Dial(ctx context.Context, path string, opts ...Option) (*Client, error) {
	if path == "" {
		path = DefaultSocket()
	}
	options, err := collect(opts)
	if err != nil {
		return nil, err
	}
	c := &Client{path: path, options: options, dialling: make(chan struct{}, 1)}
	c.dialling <- struct{}{}
	lane := layout.LaneRequest{Kind: layout.LaneKindImage, SlotCount: options.slots}
	if c.images, err = c.dial(ctx, lane, options.wait, options.logger); err != nil {
		return nil, err
	}
	c.life, c.stop = context.WithCancel(context.Background())
	return c, nil
}

func (c *Client) dial(ctx context.Context, lane layout.LaneRequest, wait bool, logger *slog.Logger) (*link, error) {
	connect := func(ctx context.Context) (*connection, error) {
		s, err := session.Dial(ctx, c.path, c.options.trust, lane, c.options.spin, &c.counters)
		if err != nil {
			return nil, err
		}
		conn := &connection{Session: s, leases: make([]lease, s.Slots())}
		for slot := range conn.leases {
			conn.leases[slot].session, conn.leases[slot].slot = s, uint32(slot)
		}
		return conn, nil
	}
	return dialLink(ctx, connect, wait, logger.With("path", c.path))
}

// promptLink is the second session, to whoever serves prompts. It is made by the first call that needs it.
func (c *Client) promptLink(ctx context.Context) (*link, error) {
	if l := c.prompts.Load(); l != nil {
		return l, nil
	}
	select {
	case <-c.dialling:
		defer func() { c.dialling <- struct{}{} }()
	case <-ctx.Done():
		return nil, fault.Context(ctx)
	}
	if c.life.Err() != nil {
		return nil, errClosed
	}
	if l := c.prompts.Load(); l != nil {
		return l, nil
	}
	dialCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.life, func() { cancel(errClosed) })()
	l, err := c.dial(dialCtx, c.options.prompts, false, c.options.logger.With("lane", "prompt"))
	if err == nil {
		c.prompts.Store(l)
	}
	return l, err
}

// Close fails the calls in flight with ErrClosed and closes the connection. Slots that are still leased keep their
// memory until they are released. Closing twice does nothing.
func (c *Client) Close() error {
	c.stop()
	c.images.close()
	<-c.dialling // nobody dials any more
	defer func() { c.dialling <- struct{}{} }()
	if l := c.prompts.Load(); l != nil {
		l.close()
	}
	return nil
}

// WaitReady waits until the client is connected. It returns an error when ctx ends or the client is closed.
func (c *Client) WaitReady(ctx context.Context) error { return c.images.waitReady(ctx) }

// Info is what the server said when the client last connected.
func (c *Client) Info() Info {
	info, _ := c.images.state()
	return info
}

// PromptInfo is Info of who answers prompts: their server may be another process, and its Model is another one.
func (c *Client) PromptInfo(ctx context.Context) (Info, error) {
	l, err := c.promptLink(ctx)
	if err != nil {
		return Info{}, err
	}
	info, _ := l.state()
	return info, nil
}
