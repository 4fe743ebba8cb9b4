package ring

import "go-shm-client/internal/layout"

// Producer writes a ring. Its position is private: it is never read back from the ring.
type Producer struct {
	geometry
	tail uint64
}

// NewProducer continues the ring in memory at position tail: 0 in a fresh one.
func NewProducer(memory []byte, tail uint64) (*Producer, error) {
	g, err := open(memory)
	return &Producer{g, tail}, err
}

// Tail is the position that the next entry gets.
func (p *Producer) Tail() uint64 { return p.tail }

// Publish hands an encoded entry to the consumer; its turn is filled in. There is always room, see layout.md "Rings".
func (p *Producer) Publish(encoded *[layout.EntryBytes]byte) {
	p.Place(0, encoded)
	p.Advance(1)
}

// Place publishes the entry that comes `ahead` places behind the next one. The consumer, who looks at the next one only, sees it when
// that is there: of several entries that are placed the last one first, it sees all or none. Advance follows.
func (p *Producer) Place(ahead int, encoded *[layout.EntryBytes]byte) {
	position := p.tail + uint64(ahead)
	entry := p.entry(position)
	copy(entry.Fields[:], encoded[8:])
	// Release: pairs with the consumer's acquire load of the turn (Consumer.Take here, ring_peek in the server's
	// core). Who sees the turn sees the fields above, and the slot's bytes written before this call. Go's atomics
	// are sequentially consistent, so this is also the full fence W2 before the load of the parked flag.
	entry.Turn.Store(p.turn(position))
}

// Advance goes on behind n entries that were placed.
func (p *Producer) Advance(n int) { p.tail += uint64(n) }
