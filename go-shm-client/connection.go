package shm

import (
	"context"
	"errors"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/session"
)

// connection is a session and the leases of its slots.
type connection struct {
	*session.Session
	link   *link
	leases []lease
	opened time.Time

	pictures, classifier error // what calls for those say where the model does not suit them
}

func newConnection(s *session.Session) *connection {
	conn := &connection{Session: s, leases: make([]lease, s.Slots()), opened: time.Now()}
	for slot := range conn.leases {
		conn.leases[slot].conn, conn.leases[slot].slot = conn, uint32(slot)
	}
	conn.pictures, conn.classifier = suits(&s.Metadata.Model)
	return conn
}

// connection is the one for a new call, and not the one that has moved. It waits for the next where the server says that there
// is one.
func (l *link) connection(ctx context.Context, moved *connection) (*connection, error) {
	for {
		if conn := l.current.Load(); conn != nil && conn != moved {
			return conn, nil // should it have ended just now, it says so itself
		}
		l.mu.Lock()
		changed, conn, closed, down := l.changed, l.current.Load(), l.closed, l.down
		l.mu.Unlock()
		if closed || conn == nil && !errors.Is(down, fault.Moved) {
			return nil, down
		}
		if conn == nil || conn == moved { // maintain is about to notice, or to connect
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, fault.Context(ctx)
			}
		}
	}
}

// claim claims n neighbouring slots, and says which is the first. A session that has moved is no failure: it waits for the next one. Its
// errors are ErrNotRun.
func (l *link) claim(ctx context.Context, n int) (*connection, uint32, error) {
	var moved *connection
	for {
		conn, err := l.connection(ctx, moved)
		if err != nil {
			return nil, 0, notRun(err)
		}
		slot, err := conn.Claim(ctx, n)
		if !errors.Is(err, fault.Moved) {
			return conn, slot, notRun(err)
		}
		moved = conn
	}
}

// tryClaim is claim that does not wait. A model that is being replaced has no free slot.
func (l *link) tryClaim(_ context.Context, n int) (*connection, uint32, error) {
	conn := l.current.Load()
	if conn == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, 0, busy(l.down)
	}
	slot, err := conn.TryClaim(n)
	return conn, slot, busy(err)
}

func busy(err error) error {
	if errors.Is(err, fault.Moved) {
		return ErrRingFull
	}
	return notRun(err)
}

// claim is how a call gets its slots: it waits for them, or does not.
type claim func(*link, context.Context, int) (*connection, uint32, error)

// reserve leases a slot of the session. Its errors are ErrNotRun.
func (l *link) reserve(ctx context.Context, claim claim) (Slot, error) {
	conn, slot, err := claim(l, ctx, 1)
	if err != nil {
		return Slot{}, err
	}
	return conn.leases[slot].open(), nil
}
