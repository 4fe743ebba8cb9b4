package shm

// Stats are counters since NewClient, over all connections. They explain latencies: a call that parked waited for a bell,
// and a bell is a system call here or at the server.
type Stats struct {
	Requests        uint64 // submissions
	SpinHits        uint64 // calls that were polling when their answer came
	Parks           uint64 // calls that slept
	BellsSent       uint64 // submissions that found the server asleep
	BellsSuppressed uint64 // submissions that found it awake, and made no system call
	BellsReceived   uint64 // times that the server found us asleep
	Reconnects      uint64 // connections made after the first one to a model
}

// Stats reads the counters. They are read one after another, while calls go on.
func (c *Client) Stats() Stats {
	s := c.counters.Snapshot()
	reconnects := uint64(0)
	for _, e := range c.entries() {
		if l := e.made.Load(); l != nil {
			_, more := l.state()
			reconnects += more
		}
	}
	return Stats{
		Requests:        s.Requests,
		SpinHits:        s.SpinHits,
		Parks:           s.Parks,
		BellsSent:       s.BellsSent,
		BellsSuppressed: s.BellsSuppressed,
		BellsReceived:   s.BellsReceived,
		Reconnects:      reconnects,
	}
}
