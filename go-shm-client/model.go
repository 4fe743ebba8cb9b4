package shm

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"

	"go-shm-client/internal/layout"
)

// A Model is one of the server's models, in a session of its own that is made again when it breaks. Its methods may be called from
// any goroutine. It is the client's, and ends with it.
type Model struct {
	link      *link
	signature *Signature                 // as it was when Model was asked for
	known     atomic.Pointer[connection] // one whose signature has the same tensors
}

// Model is the model of that name; "" is the server's default. The first call for a name connects, later ones find what it made.
// Where the server has no such model, it is ErrNoSuchModel, and the text lists those that there are.
func (c *Client) Model(ctx context.Context, name string) (*Model, error) {
	l, err := c.named(ctx, linkKey{layout.ProtocolCall, name})
	if err != nil {
		return nil, err
	}
	return l.handle(), nil
}

// handle is the link's Model, a new one where the signature has changed.
func (l *link) handle() *Model {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.model == nil || !sameTensors(l.model.signature, l.signature) {
		l.model = &Model{link: l, signature: l.signature}
	}
	return l.model
}

// Signature is what the server said of the model when the client last connected.
func (m *Model) Signature() Signature {
	m.link.mu.Lock()
	defer m.link.mu.Unlock()
	return *m.link.signature
}

// Inputs are the model's inputs; do not modify.
func (m *Model) Inputs() []Tensor { return m.signature.Inputs }

// Outputs are the model's outputs; do not modify.
func (m *Model) Outputs() []Tensor { return m.signature.Outputs }

// Slots is how many calls, or rows of batches, can be in flight at a time. It is that of the session that the client has, or had last.
func (m *Model) Slots() int {
	said, _ := m.link.state()
	return said.Slots
}

// WaitReady waits until the client is connected to the model. It returns an error when ctx ends or the client is closed.
func (m *Model) WaitReady(ctx context.Context) error { return m.link.waitReady(ctx) }

// Reserve leases a slot. It waits for a free one until ctx ends, and for the next session where the model is just being replaced.
func (m *Model) Reserve(ctx context.Context) (Slot, error) {
	return m.reserve(ctx, (*link).claim)
}

// TryReserve is Reserve that returns ErrRingFull when every slot is taken, or the model is just being replaced.
func (m *Model) TryReserve() (Slot, error) {
	return m.reserve(context.Background(), (*link).tryClaim)
}

func (m *Model) reserve(ctx context.Context, claim claim) (Slot, error) {
	conn, slot, err := m.claim(ctx, claim, 1)
	if err != nil {
		return Slot{}, err
	}
	return conn.leases[slot].open(), nil
}

// claim claims n slots, unless the model has been replaced by one of that name with another signature.
func (m *Model) claim(ctx context.Context, claim claim, n int) (*connection, uint32, error) {
	conn, first, err := claim(m.link, ctx, n)
	if err != nil || m.known.Load() == conn {
		return conn, first, err
	}
	if now := &conn.Metadata.Model; !sameTensors(m.signature, now) {
		for slot := range uint32(n) {
			conn.Release(first + slot)
		}
		return nil, 0, &SignatureError{Expected: m.signature.String(), Signature: *now}
	}
	m.known.Store(conn)
	return conn, first, nil
}

func sameTensors(a, b *Signature) bool {
	return reflect.DeepEqual(a.Inputs, b.Inputs) && reflect.DeepEqual(a.Outputs, b.Outputs)
}

// A SignatureError says that a model is not what a call is for: it has other inputs or outputs. It is ErrNotRun.
type SignatureError struct {
	Expected  string
	Signature Signature
}

func (e *SignatureError) Error() string {
	return fmt.Sprintf("the model is %v, expected %s", e.Signature, e.Expected)
}

func (e *SignatureError) Is(target error) bool { return target == ErrNotRun }
