package shm

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"unicode/utf8"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fault"
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
	l, err := c.link(ctx, linkKey{layout.ProtocolCall, name})
	if err != nil {
		return nil, notRun(err)
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

// WaitReady waits until the client is connected to the model. It returns an error when ctx ends or the client is closed.
func (m *Model) WaitReady(ctx context.Context) error { return m.link.waitReady(ctx) }

// Reserve leases a slot. It waits for a free one until ctx ends, and for the next session where the model is just being replaced.
func (m *Model) Reserve(ctx context.Context) (Slot, error) {
	return m.mine(m.link.reserve(ctx))
}

// TryReserve is Reserve that returns ErrRingFull when every slot is taken, or the model is just being replaced.
func (m *Model) TryReserve() (Slot, error) {
	return m.mine(m.link.tryReserve(context.Background()))
}

// mine gives a slot back that is of a model with another signature: one of that name which has replaced ours.
func (m *Model) mine(slot Slot, err error) (Slot, error) {
	if err != nil {
		return Slot{}, err
	}
	conn := slot.lease.conn
	if m.known.Load() == conn {
		return slot, nil
	}
	if now := &conn.Metadata.Model; !sameTensors(m.signature, now) {
		slot.Release()
		return Slot{}, &SignatureError{Expected: m.signature.String(), Signature: *now}
	}
	m.known.Store(conn)
	return slot, nil
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

// linkKey is which session a call needs.
type linkKey struct {
	protocol uint32
	model    string
}

// entry is a session that was made, or is about to be.
type entry struct {
	made    atomic.Pointer[link]
	making  chan struct{} // holds one token: for who makes it
	dropped bool          // it could not be made, and is in the table no more; guarded by the token
}

// link is the session for key, which the first call that needs it makes.
func (c *Client) link(ctx context.Context, key linkKey) (*link, error) {
	if len(key.model) > layout.MaxModelNameBytes || !utf8.ValidString(key.model) {
		return nil, fmt.Errorf("%w: the name %q, expected UTF-8 of at most %d bytes", ErrNoSuchModel, key.model, layout.MaxModelNameBytes)
	}
	for {
		e, err := c.entry(key)
		if err != nil {
			return nil, err
		}
		if l := e.made.Load(); l != nil {
			return l, nil
		}
		if l, err := c.connect(ctx, key, e); l != nil || err != nil {
			return l, err
		}
	}
}

func (c *Client) entry(key linkKey) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, errClosed
	}
	e := c.links[key]
	if e == nil {
		e = &entry{making: make(chan struct{}, 1)}
		e.making <- struct{}{}
		c.links[key] = e
	}
	return e, nil
}

// connect makes the session of an entry, unless somebody else has. nil: somebody else tried in vain.
func (c *Client) connect(ctx context.Context, key linkKey, e *entry) (*link, error) {
	select {
	case <-e.making:
		defer func() { e.making <- struct{}{} }()
	case <-ctx.Done():
		return nil, fault.Context(ctx)
	}
	if l := e.made.Load(); l != nil || e.dropped {
		return l, nil
	}
	dialCtx, release := c.alive(ctx)
	defer release()
	l, err := c.dial(dialCtx, c.options.request(key), false)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.links, key) // names that there are not take no room
		e.dropped = true
		return nil, err
	}
	e.made.Store(l)
	return l, nil
}

// request is what a session for key asks for.
func (o *options) request(key linkKey) doorbell.Request {
	r := o.models[key.model]
	switch {
	case key.protocol == layout.ProtocolStream:
		r = o.prompts
	case key.model == "":
		r = doorbell.Request{Slots: o.slots}
	}
	r.Protocol, r.Model = key.protocol, key.model
	return r
}
