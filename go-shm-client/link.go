package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
)

// Reconnecting begins fast, since a restarted server is back in tens of milliseconds, and ends slow, since a server
// that is away for a second may be away for an hour.
const (
	firstDelay = 10 * time.Millisecond
	lastDelay  = time.Second
)

// link is a session with one model that is made again when it breaks.
type link struct {
	connect func(context.Context) (*connection, error)
	logger  *slog.Logger
	current atomic.Pointer[connection] // nil while there is none

	mu         sync.Mutex
	closed     bool
	down       error         // why there is no session
	info       Info          // of the last session
	signature  *Signature    // of the last session
	model      *Model        // whoever asked for it last has it
	changed    chan struct{} // closed and replaced when current, down or closed change
	reconnects uint64

	stop context.CancelFunc // of the goroutine that maintains the connection
	gone chan struct{}      // closed when it has returned
}

func dialLink(ctx context.Context, connect func(context.Context) (*connection, error), logger *slog.Logger) (*link, error) {
	l := &link{connect: connect, logger: logger, changed: make(chan struct{}), gone: make(chan struct{})}
	conn, err := connect(ctx)
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
		why := conn.Err()
		l.disown(why)
		delay, moved := firstDelay, errors.Is(why, fault.Moved)
		if moved && time.Since(conn.opened) > firstDelay {
			delay = 0 // but to a server that says so at once we do not come back as fast
		}
		conn = l.reconnect(life, delay, moved)
	}
}

// reconnect tries until it succeeds, or life ends: nil. Where the model has moved, calls wait meanwhile, unless there is nobody to wait for.
func (l *link) reconnect(life context.Context, delay time.Duration, moved bool) *connection {
	for ; ; delay = min(max(2*delay, firstDelay), lastDelay) {
		// Half of the delay is random: the clients of a server that died do not all come back at once.
		if !sleep(life, delay/2+rand.N(delay/2+1)) {
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
		l.logger.Debug("shm: reconnect failed", "error", err, "after", delay)
		if moved = moved && comesSoon(err); moved {
			delay = min(delay, waitDelay/2)
			continue
		}
		l.setDown(fmt.Errorf("%w: reconnecting: %w", ErrServerGone, err))
	}
}

// comesSoon is whether who could not be connected to may be there in a moment: it says so, or was there and did not answer, or more
// clients than fit its queue came back at once. Where nobody listens, nobody comes.
func comesSoon(err error) bool {
	nobody := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
	return !nobody && (errors.Is(err, ErrServerGone) || errors.Is(err, ErrDraining)) && !errors.Is(err, ErrProtocol)
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
	model := &conn.Metadata.Model
	conn.link, l.signature = l, model
	l.info = Info{Server: conn.Metadata.Server, Model: model.Name, Classes: classes(model), Slots: conn.Slots()}
	l.current.Store(conn)
	l.broadcast()
	l.logger.Info("shm: connected", "server", l.info.Server, "model", l.info.Model, "version", model.Version, "epoch", conn.Epoch)
}

// disown makes new calls fail with err, until there is a session again.
func (l *link) disown(err error) {
	l.setDown(err)
	l.logger.Warn("shm: connection lost", "model", l.info.Model, "error", err) // written by this goroutine only
}

func (l *link) setDown(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current.Store(nil) // whoever finds it finds why in down
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
