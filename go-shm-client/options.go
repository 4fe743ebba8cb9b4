package shm

import (
	"log/slog"
	"time"

	"go-shm-client/internal/layout"
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
	spin    time.Duration
	slots   uint32
	prompts layout.LaneRequest
	logger  *slog.Logger
}

// An Option of Dial.
type Option func(*options)

// WithSpin sets how long a call polls for its answer before it sleeps: 0 = not at all, SpinForever = until it is
// there. Calls stop polling where it does not pay, and try again now and then; where there is only one processor, none polls.
func WithSpin(budget time.Duration) Option { return func(o *options) { o.spin = max(0, budget) } }

// WithSlots asks for n slots, that is calls in flight at a time. 0 is the server's default.
func WithSlots(n int) Option {
	return func(o *options) { o.slots = atMost(n, layout.MaxSlots) }
}

// WithPromptSlots asks for n prompts in flight at a time, each of up to promptBytes bytes and with a reply of up to replyBytes.
// 0 is the server's default: 16 prompts of 16 KiB with replies of 32 KiB.
func WithPromptSlots(n, promptBytes, replyBytes int) Option {
	return func(o *options) {
		o.prompts.SlotCount = atMost(n, layout.MaxSlots)
		o.prompts.SlotBytes = atMost(promptBytes, layout.MaxTextBytes)
		o.prompts.ReplyBytes = atMost(replyBytes, layout.MaxTextBytes)
	}
}

// atMost leaves one too many, which the server refuses, and says why.
func atMost(n, limit int) uint32 { return uint32(min(max(0, n), limit+1)) }

// WithLogger logs lost and made connections. By default nothing is logged.
func WithLogger(logger *slog.Logger) Option { return func(o *options) { o.logger = logger } }

func collect(opts []Option) options {
	o := options{spin: DefaultSpin, logger: slog.New(slog.DiscardHandler)}
	o.prompts.Kind = layout.LaneKindPrompt
	for _, set := range opts {
		set(&o)
	}
	return o
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
