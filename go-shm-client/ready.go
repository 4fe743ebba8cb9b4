package shm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go-shm-client/internal/fault"
)

// waitDelay is the longest between two tries of somebody who waits for a server that is starting: one costs 20 us.
const waitDelay = 100 * time.Millisecond

// WaitReady waits until the server is up and has the models of these names ready, of either protocol, or without names all of its
// models; and until the client is connected again to those of them that it has used. It returns an error when ctx ends, which says
// what it waited for, and at once where waiting does not help: the client is closed, the server has no such model, is another
// user's or refuses this client.
func (c *Client) WaitReady(ctx context.Context, models ...string) error {
	var why error // it is not ready, as far as the server is to blame
	for delay := firstDelay; ; delay = min(2*delay, waitDelay) {
		err := c.ready(ctx, models)
		switch {
		case err == nil:
			return c.waitConnected(ctx, models)
		case errors.Is(err, ErrServerGone), errors.Is(err, ErrDraining):
			why = err
		case why == nil || ctx.Err() == nil && !errors.Is(err, ErrDeadlineExceeded):
			return err
		}
		c.config.logger.Debug("shm: waiting for the server", "path", c.path, "error", why, "next", delay)
		if !sleep(ctx, delay) {
			return fmt.Errorf("%w: %w", fault.Context(ctx), why)
		}
	}
}

// ready is nil where the server has those models ready. It is ErrServerGone or ErrDraining where it may have them soon.
func (c *Client) ready(ctx context.Context, names []string) error {
	models, err := c.Models(ctx)
	if err != nil {
		return err
	}
	var all, unready []string
	for _, m := range models {
		if all = append(all, m.Name); m.State != "ready" && wanted(names, m.Name) {
			unready = append(unready, fmt.Sprintf("%s is %s", m.Name, m.State))
		}
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return notRun(fmt.Errorf("%w: %q, there are %q", ErrNoSuchModel, name, all))
		}
	}
	if unready != nil {
		return fmt.Errorf("%w: %s", errNotReady, fault.Line(strings.Join(unready, ", ")))
	}
	return nil
}

// errNotReady is ErrServerGone: of a model that is not ready, nobody serves it.
var errNotReady = fault.As(errors.New("shm-server is not ready"), ErrServerGone)

// wanted is whether a name is one of names, or there are none.
func wanted(names []string, name string) bool { return len(names) == 0 || slices.Contains(names, name) }

// waitConnected waits for the sessions of those models.
func (c *Client) waitConnected(ctx context.Context, names []string) error {
	for _, e := range c.entries() {
		l := e.made.Load()
		if l == nil {
			continue
		}
		if said, _ := l.state(); wanted(names, said.Model) {
			if err := l.waitReady(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
