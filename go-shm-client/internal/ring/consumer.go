package ring

import (
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// Consumer reads a ring. Its position is private.
type Consumer struct {
	geometry
	head uint64
}

// NewConsumer continues the ring in memory at position head: 0 in a fresh one.
func NewConsumer(memory []byte, head uint64) (*Consumer, error) {
	g, err := open(memory)
	return &Consumer{g, head}, err
}

// Head is the position that the next entry will have.
func (c *Consumer) Head() uint64 { return c.head }

// Take copies the entry at the head to private memory and moves on; false means that there is none yet. Whoever
// looks at the entry afterwards looks at the copy: the producer may write whatever it likes into the ring, but it
// cannot change what was checked. An error means a producer that is broken.
func (c *Consumer) Take(private *[layout.EntryBytes]byte) (bool, error) {
	entry := c.entry(c.head)
	// Acquire: pairs with the release store of the turn by the producer (Producer.Publish here, ring_publish in
	// the server's core).
	turn := entry.Turn.Load()
	if turn != c.turn(c.head) {
		if turn == c.turnBefore(c.head) {
			return false, nil
		}
		return false, fault.Violated("turn", "entry at position %d holds turn %d, neither %d nor %d",
			c.head, turn, c.turnBefore(c.head), c.turn(c.head))
	}
	copy(private[8:], entry.Fields[:])
	c.head++
	return true, nil
}

// Empty is whether nothing is published at the head. What a broken producer left there is not nothing.
func (c *Consumer) Empty() bool { return c.EmptyAt(c.head) }

// EmptyAt is whether nothing has been published at position yet. Any goroutine may ask.
func (c *Consumer) EmptyAt(position uint64) bool {
	return c.entry(position).Turn.Load() == c.turnBefore(position)
}
