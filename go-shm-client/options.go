package shm

import (
	"errors"
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

	// SpinForever never sleeps while it waits: for a process with a core to spare.
	SpinForever = session.SpinForever
)

type options struct {
	wait    bool
	spin    time.Duration
	slots   uint32
	prompts doorbell.Request
	models  map[string]doorbell.Request // by name
	trust   peer.Trust
	logger  *slog.Logger
}

// An Option of Dial. A value that makes no sense is an error of Dial's.
type Option func(*options) error

// WaitForServer has Dial wait for a server that is not up yet, or is stopping to make room for the next one, until its context
// ends. A server that answers with anything else is not waited for.
func WaitForServer() Option { return func(o *options) error { o.wait = true; return nil } }

// WithServerUser trusts a server of the user with this id, besides the own user's and root's. A server of anybody else is a
// ForeignServerError: whoever comes first can listen at a path in /tmp.
func WithServerUser(id int) Option {
	return func(o *options) error {
		if id < 0 {
			return fmt.Errorf("shm: WithServerUser(%d): expected a user's id, 0 or more", id)
		}
		o.trust.Users = append(o.trust.Users, id)
		return nil
	}
}

// WithAnyServer trusts every server that listens at the path, whoever runs it.
func WithAnyServer() Option { return func(o *options) error { o.trust.Anyone = true; return nil } }

// WithSpin sets how long a call polls for its answer before it sleeps: 0 = not at all, SpinForever = until it is
// there. Calls stop polling where it does not pay, and try again now and then; where there is only one processor, none polls.
func WithSpin(budget time.Duration) Option {
	return func(o *options) error {
		if budget < 0 {
			return fmt.Errorf("shm: WithSpin(%v): expected 0 or more", budget)
		}
		o.spin = budget
		return nil
	}
}

// ModelOptions are what a client asks for when it connects to a model. What is 0 is the server's to choose.
type ModelOptions struct {
	Slots  int // calls in flight at a time, 65536 at most
	Extent int // the bound of the model's symbolic dimension, where it has one: the most tokens, say
}

// WithModel says what Client.Model asks for with that name. For the default model and prompts there are WithSlots and
// WithPromptSlots.
func WithModel(name string, m ModelOptions) Option {
	return func(o *options) (err error) {
		if name == "" {
			return errors.New("shm: WithModel: an empty name, expected a model's")
		}
		var r doorbell.Request
		if r.Slots, err = within("WithModel", "slots", m.Slots, layout.MaxSlots); err == nil {
			r.InputExtent, err = within("WithModel", "as the extent", m.Extent, layout.MaxSegmentBytes)
		}
		o.models[name] = r
		return err
	}
}

// WithSlots asks for n slots of the default model, that is calls in flight at a time, 65536 at most. 0 is the server's default.
func WithSlots(n int) Option {
	return func(o *options) (err error) {
		o.slots, err = within("WithSlots", "slots", n, layout.MaxSlots)
		return err
	}
}

// WithPromptSlots asks for n prompts in flight at a time, each of up to promptBytes bytes and with a reply of up to replyBytes.
// 0 is the server's default: 16 prompts of 16 KiB with replies of 32 KiB. The most is 65536 prompts, and 16 MiB of text each.
func WithPromptSlots(n, promptBytes, replyBytes int) Option {
	return func(o *options) error {
		for _, size := range []struct {
			what   string
			n      int
			most   int
			target *uint32
		}{
			{"slots", n, layout.MaxSlots, &o.prompts.Slots},
			{"bytes of prompt", promptBytes, layout.MaxTextBytes, &o.prompts.InputExtent},
			{"bytes of reply", replyBytes, layout.MaxTextBytes, &o.prompts.OutputExtent},
		} {
			var err error
			if *size.target, err = within("WithPromptSlots", size.what, size.n, size.most); err != nil {
				return err
			}
		}
		return nil
	}
}

func within(option, what string, n, most int) (uint32, error) {
	if n < 0 || n > most {
		return 0, fmt.Errorf("shm: %s: %d %s, expected 0 (the server's default) to %d", option, n, what, most)
	}
	return uint32(n), nil
}

// WithLogger logs lost and made connections. By default nothing is logged.
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) error {
		if logger == nil {
			return errors.New("shm: WithLogger(nil): expected a logger")
		}
		o.logger = logger
		return nil
	}
}

func collect(opts []Option) (options, error) {
	o := options{spin: DefaultSpin, logger: slog.New(slog.DiscardHandler), models: make(map[string]doorbell.Request)}
	for _, set := range opts {
		if err := set(&o); err != nil {
			return options{}, err
		}
	}
	return o, nil
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
