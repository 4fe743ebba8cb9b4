package session

import "sync/atomic"

// Counters explain a latency. They go on over all sessions of a client, and are cheap enough to stay on.
type Counters struct {
	requests, spinHits, parks, bellsSent, bellsReceived atomic.Uint64
}

// Snapshot is the counters at one moment.
type Snapshot struct {
	Requests        uint64 // submissions published
	SpinHits        uint64 // calls whose completion came while they polled
	Parks           uint64 // calls that slept
	BellsSent       uint64 // submissions that found the server asleep
	BellsSuppressed uint64 // submissions that found it awake: no system call was made
	BellsReceived   uint64 // completions that found us asleep
}

// Snapshot reads the counters.
func (c *Counters) Snapshot() Snapshot {
	s := Snapshot{
		BellsSent:     c.bellsSent.Load(), // before requests, so that suppressed is never negative
		Requests:      c.requests.Load(),
		SpinHits:      c.spinHits.Load(),
		Parks:         c.parks.Load(),
		BellsReceived: c.bellsReceived.Load(),
	}
	s.BellsSuppressed = s.Requests - min(s.BellsSent, s.Requests)
	return s
}
