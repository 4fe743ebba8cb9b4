package shm

import (
	"context"
	"sync"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// A Client is a connection to a server that is made again when it breaks. Use Dial to get one.
type Client struct {
	path     string
	options  options
	counters session.Counters
	images   *link           // of the default call model
	life     context.Context // until Close
	stop     context.CancelFunc

	mu    sync.Mutex
	links map[linkKey]*entry // those of the models that were asked for
}

// Info is what the server says about itself and its default model.
type Info struct {
	Server  string
	Model   string
	Classes []string // by Result.Class, the labels of the model's one output, where it has some; do not modify
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
	c := &Client{path: path, options: options, links: make(map[linkKey]*entry)}
	key := linkKey{layout.ProtocolCall, ""}
	if c.images, err = c.dial(ctx, options.request(key), options.wait); err != nil {
		return nil, err
	}
	c.life, c.stop = context.WithCancel(context.Background())
	e, err := c.entry(key)
	if err != nil {
		return nil, err
	}
	e.made.Store(c.images)
	return c, nil
}

func (c *Client) dial(ctx context.Context, request doorbell.Request, wait bool) (*link, error) {
	connect := func(ctx context.Context) (*connection, error) {
		s, err := session.Dial(ctx, c.path, c.options.trust, request, c.options.spin, &c.counters)
		if err != nil {
			return nil, err
		}
		return newConnection(s), nil
	}
	return dialLink(ctx, connect, wait, c.options.logger.With("path", c.path))
}

// alive is ctx, which ends when the client is closed too. Call release when it is not needed any more.
func (c *Client) alive(ctx context.Context) (alive context.Context, release func()) {
	alive, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(errClosed) })
	return alive, func() { stop(); cancel(nil) }
}

// Close fails the calls in flight with ErrClosed and closes the connections. Slots that are still leased keep their
// memory until they are released. Closing twice does nothing.
func (c *Client) Close() error {
	c.stop()
	c.mu.Lock() // from now on nobody adds one
	var all []*entry
	for _, e := range c.links {
		all = append(all, e)
	}
	c.mu.Unlock()
	for _, e := range all {
		<-e.making // nobody dials any more
		if l := e.made.Load(); l != nil {
			l.close()
		}
		e.making <- struct{}{}
	}
	return nil
}

// WaitReady waits until the client is connected to its default model. It returns an error when ctx ends or the client is closed.
func (c *Client) WaitReady(ctx context.Context) error { return c.images.waitReady(ctx) }

// Info is what the server said when the client last connected.
func (c *Client) Info() Info {
	info, _ := c.images.state()
	return info
}

// PromptInfo is Info of the model that answers prompts.
func (c *Client) PromptInfo(ctx context.Context) (Info, error) {
	l, err := c.promptLink(ctx)
	if err != nil {
		return Info{}, err
	}
	info, _ := l.state()
	return info, nil
}

// promptLink is the session of the default stream model.
func (c *Client) promptLink(ctx context.Context) (*link, error) {
	return c.link(ctx, linkKey{layout.ProtocolStream, ""})
}
