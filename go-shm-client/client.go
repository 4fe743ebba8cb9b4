package shm

import (
	"context"
	"sync"

	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// A Client calls the models of a server, each in a session of its own that is opened when the model is first used and made again
// when it breaks. Use NewClient to get one.
type Client struct {
	path     string
	config   *config
	counters session.Counters
	life     context.Context // until Close
	stop     context.CancelFunc

	images, prompts *entry // of the default models, which calls find without the table

	mu    sync.Mutex
	links map[linkKey]*entry // those of the models that were asked for
}

// NewClient is a client of the server that listens at path; "" is DefaultSocket(). It does not connect: a client may be made before
// the server is up, and of a server of any models. Whoever uses a model connects to it, and where nobody listens that call fails
// with ErrServerGone, at once; WaitReady waits. An error here is one of the options, or errors.ErrUnsupported where there can be no
// shared memory. Close the client when it is not needed any more.
func NewClient(path string, options ...Options) (*Client, error) {
	if err := session.Supported(); err != nil {
		return nil, err
	}
	if path == "" {
		path = DefaultSocket()
	}
	config, err := configure(options)
	if err != nil {
		return nil, err
	}
	c := &Client{path: path, config: config, links: make(map[linkKey]*entry)}
	c.life, c.stop = context.WithCancel(context.Background())
	if c.images, err = c.entry(linkKey{layout.ProtocolCall, ""}); err != nil {
		return nil, err
	}
	c.prompts, err = c.entry(linkKey{layout.ProtocolStream, ""})
	return c, err
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
	for _, e := range c.entries() { // from now on nobody adds one
		<-e.making // nobody dials any more
		if l := e.made.Load(); l != nil {
			l.close()
		}
		e.making <- struct{}{}
	}
	return nil
}

// Info is what the server says about itself and a model of its.
type Info struct {
	Server  string
	Model   string
	Classes []string // by Result.Class, the labels of the model's one output, where it has some; do not modify
	Slots   int      // calls in flight at a time
}

// Info is what the server said of its default model when the client last connected to it, which it does where it has not.
func (c *Client) Info(ctx context.Context) (Info, error) {
	return info(c.link(ctx, c.images))
}

// PromptInfo is Info of the model of that name that answers prompts; "" is the server's default.
func (c *Client) PromptInfo(ctx context.Context, model string) (Info, error) {
	return info(c.stream(ctx, model))
}

func info(l *link, err error) (Info, error) {
	if err != nil {
		return Info{}, err
	}
	said, _ := l.state()
	return said, nil
}
