package shm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Reconnecting begins fast, since a restarted server is back in tens of milliseconds, and ends slow, since a server
// that is away for a second may be away for an hour.
const (
	firstDelay = 10 * time.Millisecond
	lastDelay  = time.Second
)

// maintain sees conn end, connects again, and so on until life ends.
func (c *Client) maintain(life context.Context, conn *connection) {
	defer close(c.gone)
	defer c.current.Store(nil) // calls from now on find that the client is closed
	for conn != nil {
		select {
		case <-conn.Done():
		case <-life.Done():
			conn.Close(c.closedError())
			return
		}
		c.disown(conn.Err())
		conn = c.reconnect(life)
	}
}

// reconnect tries until it succeeds, or life ends: nil.
func (c *Client) reconnect(life context.Context) *connection {
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		// Half of the delay is random: the clients of a server that died do not all come back at once.
		if !sleep(life, delay/2+rand.N(delay/2)) {
			return nil
		}
		conn, err := c.connect(life)
		if err == nil {
			c.adopt(conn)
			return conn
		}
		if life.Err() != nil {
			return nil
		}
		c.options.logger.Debug("shm: reconnect failed", "error", err, "next", min(2*delay, lastDelay))
		c.setDown(fmt.Errorf("%w: reconnecting: %w", ErrServerGone, err))
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// adopt makes conn the session of new calls.
func (c *Client) adopt(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.info.Slots != 0 { // not the first session
		c.reconnects++
	}
	c.info = Info{Server: conn.Metadata.Server, Model: conn.Metadata.Model, Classes: conn.Metadata.Classes, Slots: conn.Slots()}
	c.current.Store(conn)
	c.broadcast()
	c.options.logger.Info("shm: connected", "path", c.path, "server", c.info.Server, "model", c.info.Model, "epoch", conn.Epoch)
}

// disown makes new calls fail with err, until there is a session again.
func (c *Client) disown(err error) {
	c.setDown(err)
	c.current.Store(nil)
	c.options.logger.Warn("shm: connection lost", "path", c.path, "error", err)
}

func (c *Client) setDown(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.down = err
		c.broadcast()
	}
}

// broadcast wakes whoever waits for a change. The caller holds mu.
func (c *Client) broadcast() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) closedError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}
