package shm

import (
	"fmt"
	"log/slog"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/peer"
	"go-shm-client/internal/session"
)

const (
	// DefaultSpin is how long a call polls before it sleeps. Waking a sleeper costs 5 to 50 us, so a call that is
	// answered within twice that is worth waiting for; a compiled CIFAR-10 network answers in 30 to 80 us.
	DefaultSpin = 100 * time.Microsecond

	// NoSpin sleeps at once.
	NoSpin = time.Duration(-1)

	// SpinForever never sleeps while it waits: for a process with a core to spare.
	SpinForever = session.SpinForever
)

// Options are what a client can be told. The zero Options are those of a client that was told nothing.
type Options struct {
	// Spin is how long a call polls for its answer before it sleeps: 0 is DefaultSpin, NoSpin not at all, SpinForever until it is
	// there. Calls stop polling where it does not pay, and try again now and then; where there is only one processor, none polls.
	Spin time.Duration

	// Models are what to ask for when the client connects to a model, by its name; "" is the server's default.
	Models map[string]ModelOptions

	// StreamModels are the same for models that answer prompts.
	StreamModels map[string]StreamModelOptions

	// ServerUsers are the ids of users whose servers are trusted, besides the own user's and root's. A server of anybody else is a
	// *ForeignServerError: whoever comes first can listen at a path in /tmp.
	ServerUsers []int

	// AnyServer trusts every server that listens at the path, whoever runs it.
	AnyServer bool

	// Logger is told of lost and made connections. By default nothing is logged.
	Logger *slog.Logger
}

// ModelOptions are what a client asks for when it connects to a model. What is 0 is the server's to choose.
type ModelOptions struct {
	Slots  int // calls in flight at a time, 65536 at most
	Extent int // bound of the symbolic dimension, where the model has one: most tokens of a text, say
}

// StreamModelOptions are what a client asks for when it connects to a model that answers prompts. What is 0 is the server's to
// choose: 16 prompts of 16 KiB with replies of 32 KiB.
type StreamModelOptions struct {
	Slots       int // prompts in flight at a time, 65536 at most
	PromptBytes int // of the longest prompt, 16 MiB at most
	ReplyBytes  int // of the longest reply, 16 MiB at most
}

// config is Options that make sense.
type config struct {
	spin     time.Duration
	trust    peer.Trust
	logger   *slog.Logger
	requests map[linkKey]doorbell.Request
}

// request is what a session for key asks for.
func (c *config) request(key linkKey) doorbell.Request {
	r := c.requests[key]
	r.Protocol, r.Model = key.protocol, key.model
	return r
}

func configure(given []Options) (*config, error) {
	var o Options
	switch {
	case len(given) > 1:
		return nil, fmt.Errorf("shm: %d Options, expected one at most", len(given))
	case len(given) == 1:
		o = given[0]
	}
	c := &config{spin: o.Spin, logger: o.Logger, requests: make(map[linkKey]doorbell.Request)}
	switch {
	case o.Spin == 0:
		c.spin = DefaultSpin
	case o.Spin == NoSpin:
		c.spin = 0
	case o.Spin < 0:
		return nil, fmt.Errorf("shm: Options.Spin: %v, expected a time, NoSpin or SpinForever", o.Spin)
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.trust, err = peer.Trusting(o.AnyServer, o.ServerUsers); err != nil {
		return nil, fmt.Errorf("shm: %w", err)
	}
	for name, m := range o.Models {
		var r doorbell.Request
		if err := fill(fmt.Sprintf("Models[%q]", name),
			size{"Slots", m.Slots, layout.MaxSlots, &r.Slots},
			size{"Extent", m.Extent, layout.MaxSegmentBytes, &r.InputExtent}); err != nil {
			return nil, err
		}
		c.requests[linkKey{layout.ProtocolCall, name}] = r
	}
	for name, m := range o.StreamModels {
		var r doorbell.Request
		if err := fill(fmt.Sprintf("StreamModels[%q]", name),
			size{"Slots", m.Slots, layout.MaxSlots, &r.Slots},
			size{"PromptBytes", m.PromptBytes, layout.MaxTextBytes, &r.InputExtent},
			size{"ReplyBytes", m.ReplyBytes, layout.MaxTextBytes, &r.OutputExtent}); err != nil {
			return nil, err
		}
		c.requests[linkKey{layout.ProtocolStream, name}] = r
	}
	return c, nil
}

// size is a field of Options, and where it goes.
type size struct {
	field   string
	n, most int
	to      *uint32
}

func fill(where string, sizes ...size) error {
	for _, s := range sizes {
		if s.n < 0 || s.n > s.most {
			return fmt.Errorf("shm: Options.%s.%s: %d, expected 0 (the server's default) to %d", where, s.field, s.n, s.most)
		}
		*s.to = uint32(s.n)
	}
	return nil
}

// A CallOption changes one call. It is a value, so that a call with options allocates nothing.
type CallOption struct {
	scores     []float32
	wantScores bool
}

// WithScores asks for the score of every class, appended to dst[:0] and returned in Result.Scores. Nothing is
// allocated where dst has the capacity.
func WithScores(dst []float32) CallOption { return CallOption{scores: dst[:0], wantScores: true} }

func collectCall(opts []CallOption) (o CallOption) {
	for _, option := range opts {
		if option.wantScores {
			o = option
		}
	}
	return o
}
