package shm

import (
	"encoding/binary"
	"math/bits"
)

// Checksum is what the server computes over an echo's pixels: two running sums over 64-bit words, the last one
// padded with zero bytes; layout.md, "Checksum". The first sum sees every bit, the second the order of the words.
func Checksum(b []byte) uint64 {
	var sum, order uint64
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
	return sum ^ bits.RotateLeft64(order, 32)
}
