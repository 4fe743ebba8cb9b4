package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/session"
)

// Reconnecting begins fast, since a restarted server is back in tens of milliseconds, and ends slow, since a server
// that is away for a second may be away for an hour.
const (
	firstDelay = 10 * time.Millisecond
	lastDelay  = time.Second
	waitDelay  = 100 * time.Millisecond // somebody waits for a server that is starting: trying costs 20 us
)

// link is a session of one lane that is made again when it breaks.
type link struct {
	connect func(context.Context) (*connection, error)
	logger  *slog.Logger
	current atomic.Pointer[connection] // nil while there is none

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

func dialLink(ctx context.Context, connect func(context.Context) (*connection, error), wait bool, logger *slog.Logger) (*link, error) {
	l := &link{connect: connect, logger: logger, changed: make(chan struct{}), gone: make(chan struct{})}
	conn, err := connect(ctx)
	if wait {
		conn, err = l.waitForServer(ctx, conn, err)
	}
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.adopt(conn)
	go l.maintain(life, conn)
	return l, nil
}

func (l *link) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.down = errClosed
		l.broadcast()
	}
	l.mu.Unlock()
	l.stop()
	<-l.gone
}

// connection is the one for a new call.
func (l *link) connection() (*connection, error) {
	if conn := l.current.Load(); conn != nil {
		return conn, nil // should it have ended just now, it says so itself
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return nil, l.down
}

// waitReady waits until there is a session.
func (l *link) waitReady(ctx context.Context) error {
	for {
		l.mu.Lock()
		changed, closed, down := l.changed, l.closed, l.down
		l.mu.Unlock()
		if closed {
			return down
		}
		if conn := l.current.Load(); conn != nil {
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

// state is what the server said when the link was last made, and how often it was made again.
func (l *link) state() (Info, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info, l.reconnects
}

// maintain sees conn end, connects again, and so on until life ends.
func (l *link) maintain(life context.Context, conn *connection) {
	defer close(l.gone)
	defer l.current.Store(nil) // calls from now on find that the client is closed
	for conn != nil {
		select {
		case <-conn.Done():
		case <-life.Done():
			conn.Close(errClosed)
			return
		}
		l.disown(conn.Err())
		conn = l.reconnect(life)
	}
}

// waitForServer connects again as long as nobody listens, or who does is stopping, until ctx ends.
func (l *link) waitForServer(ctx context.Context, conn *connection, err error) (*connection, error) {
	for delay := firstDelay; errors.Is(err, ErrServerGone) || errors.Is(err, ErrDraining); delay = min(2*delay, waitDelay) {
		l.logger.Debug("shm: waiting for the server", "error", err, "next", delay)
		sleep(ctx, delay)
		next, failure := l.connect(ctx)
		if failure != nil && ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", fault.Context(ctx), err)
		}
		conn, err = next, failure
	}
	return conn, err
}

// reconnect tries until it succeeds, or life ends: nil.
func (l *link) reconnect(life context.Context) *connection {
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		// Half of the delay is random: the clients of a server that died do not all come back at once.
		if !sleep(life, delay/2+rand.N(delay/2)) {
			return nil
		}
		conn, err := l.connect(life)
		if err == nil {
			l.adopt(conn)
			return conn
		}
		if life.Err() != nil {
			return nil
		}
		l.logger.Debug("shm: reconnect failed", "error", err, "next", min(2*delay, lastDelay))
		l.setDown(fmt.Errorf("%w: reconnecting: %w", ErrServerGone, err))
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
func (l *link) adopt(conn *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.info.Slots != 0 { // not the first session
		l.reconnects++
	}
	l.info = Info{Server: conn.Metadata.Server, Model: conn.Metadata.Model, Classes: conn.Metadata.Classes, Slots: conn.Slots()}
	l.current.Store(conn)
	l.broadcast()
	l.logger.Info("shm: connected", "server", l.info.Server, "model", l.info.Model, "epoch", conn.Epoch)
}

// disown makes new calls fail with err, until there is a session again.
func (l *link) disown(err error) {
	l.setDown(err)
	l.current.Store(nil)
	l.logger.Warn("shm: connection lost", "error", err)
}

func (l *link) setDown(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.down = err
		l.broadcast()
	}
}

// broadcast wakes whoever waits for a change. The caller holds mu.
func (l *link) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}
