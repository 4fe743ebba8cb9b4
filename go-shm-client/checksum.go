package shm

import (
	"encoding/binary"
	"math/bits"
)

// Checksum is what the server computes over an echo's pixels: two running sums over 64-bit words, the last one
// padded with zero bytes; layout.md, "Checksum". The first sum sees every bit, the second the order of the words.
func Checksum(b []byte) uint64 {
	var c checksum
	c.add(b)
	return c.value()
}

// checksum is the sums over several tensors, one after the other.
type checksum struct{ sum, order uint64 }

func (c *checksum) add(b []byte) {
	sum, order := c.sum, c.order
	for ; len(b) >= 8; b = b[8:] {
		sum += binary.LittleEndian.Uint64(b)
		order += sum
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum += binary.LittleEndian.Uint64(last[:])
		order += sum
	}
	c.sum, c.order = sum, order
}

func (c *checksum) value() uint64 { return c.sum ^ bits.RotateLeft64(c.order, 32) }
