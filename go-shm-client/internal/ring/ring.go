// Package ring is one direction of a lane: 64-byte entries from one producer to one consumer.
//
// There is no shared head or tail. Each entry carries a turn, and whoever knows its own position knows the only two
// values that the turn can have:
//
//	position  0   1   2   3   4   5   6      N = 4 entries; position p lies in entry p mod N
//	turn      1   1   1   1   2   2   2      turn(p) = ((p + N) mod 2^64) / N
//
//	            head          tail
//	             v             v
//	entry   [ 0 ][ 1 ][ 2 ][ 3 ]             at 3 the turn is still 3/4 = 0: empty
//	turn      1    1    1    0               at 1 and 2 it is turn(1) = turn(2) = 1: published
//
// A ring takes bytes, no descriptors: it runs on a mapping, or on heap memory under the race detector. Producer and
// Consumer are not safe for concurrent use; the lane serialises either.
package ring

import (
	"math/bits"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/machine"
)

// geometry places positions in a ring of a power of two of entries.
type geometry struct {
	entries []machine.Entry
	mask    uint64
	shift   uint
}

func open(memory []byte) (geometry, error) {
	entries, err := machine.Entries(memory)
	if err != nil {
		return geometry{}, fault.Violated("geometry", "%v", err)
	}
	n := uint64(len(entries))
	if n&(n-1) != 0 {
		return geometry{}, fault.Violated("geometry", "ring of %d entries: not a power of two", n)
	}
	return geometry{entries, n - 1, uint(bits.TrailingZeros64(n))}, nil
}

// turn is what a published entry at position holds. The sum wraps at 2^64, as layout.md says.
func (g *geometry) turn(position uint64) uint64 { return (position + g.mask + 1) >> g.shift }

// turnBefore is what the entry at position holds until it is published.
func (g *geometry) turnBefore(position uint64) uint64 { return position >> g.shift }

func (g *geometry) entry(position uint64) *machine.Entry { return &g.entries[position&g.mask] }
