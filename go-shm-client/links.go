package shm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/session"
)

// linkKey is which session a call needs.
type linkKey struct {
	protocol uint32
	model    string
}

// entry is a session that was made, or is about to be.
type entry struct {
	key     linkKey
	made    atomic.Pointer[link]
	making  chan struct{} // holds one token: for who makes it
	dropped bool          // it could not be made, and is in the table no more; guarded by the token
}

// entry is the one for key, a new one where there is none.
func (c *Client) entry(key linkKey) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, errClosed
	}
	e := c.links[key]
	if e == nil {
		e = &entry{key: key, making: make(chan struct{}, 1)}
		e.making <- struct{}{}
		c.links[key] = e
	}
	return e, nil
}

func (c *Client) entries() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.links))
}

// named is the session for key. Its errors are ErrNotRun.
func (c *Client) named(ctx context.Context, key linkKey) (*link, error) {
	if len(key.model) > layout.MaxModelNameBytes || !utf8.ValidString(key.model) {
		return nil, notRun(fmt.Errorf("%w: the name %q, expected UTF-8 of at most %d bytes", ErrNoSuchModel, key.model, layout.MaxModelNameBytes))
	}
	for {
		e, err := c.entry(key)
		if err != nil {
			return nil, notRun(err)
		}
		if l, err := c.link(ctx, e); l != nil || err != nil {
			return l, err
		}
	}
}

// stream is the session of a model that answers prompts. Its errors are ErrNotRun.
func (c *Client) stream(ctx context.Context, model string) (*link, error) {
	if model == "" {
		return c.link(ctx, c.prompts)
	}
	return c.named(ctx, linkKey{layout.ProtocolStream, model})
}

// link is the session of an entry, which the first call that needs it makes. nil: somebody else tried in vain, and the entry was
// dropped. Its errors are ErrNotRun.
func (c *Client) link(ctx context.Context, e *entry) (*link, error) {
	if l := e.made.Load(); l != nil {
		return l, nil
	}
	l, err := c.connect(ctx, e)
	return l, notRun(err)
}

func (c *Client) connect(ctx context.Context, e *entry) (*link, error) {
	select {
	case <-e.making:
		defer func() { e.making <- struct{}{} }()
	case <-ctx.Done():
		return nil, fault.Context(ctx)
	}
	if l := e.made.Load(); l != nil || e.dropped {
		return l, nil
	}
	if c.life.Err() != nil {
		return nil, errClosed
	}
	dialCtx, release := c.alive(ctx)
	defer release()
	l, err := dialLink(dialCtx, func(ctx context.Context) (*connection, error) { return c.dial(ctx, e.key) }, c.config.logger.With("path", c.path))
	if err != nil {
		if e.key.model != "" { // names that there are not take no room
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.links, e.key)
			e.dropped = true
		}
		return nil, err
	}
	e.made.Store(l)
	return l, nil
}

func (c *Client) dial(ctx context.Context, key linkKey) (*connection, error) {
	s, err := follow(ctx, func() (*session.Session, error) {
		return session.Dial(ctx, c.path, c.config.trust, c.config.request(key), c.config.spin, &c.counters)
	})
	if err != nil {
		return nil, err
	}
	return newConnection(s), nil
}

// mostMoves is how often in a row a server may say that another serves from now on. With the delays between, that is seconds.
const mostMoves = 30

// follow dials again where who answers says that somebody else serves from now on, which happens while one server takes over from
// another: both have the socket for a moment.
func follow[T any](ctx context.Context, dial func() (T, error)) (T, error) {
	for moves, delay := 0, time.Duration(0); ; moves, delay = moves+1, min(2*delay+time.Millisecond, waitDelay) {
		got, err := dial()
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != layout.ReasonMoved || moves == mostMoves || !sleep(ctx, delay) {
			return got, err
		}
	}
}
