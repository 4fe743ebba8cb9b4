package machine

import (
	"math"
	"time"
)

// The runtime's clock is CLOCK_MONOTONIC too, but counts from an origin of its own. The two are compared once: the
// reading of the kernel's clock lies between two readings of the runtime's, and the narrowest of a few brackets is
// taken, so that a preemption in one of them does no harm.
var (
	origin          = time.Now()
	originNS, width = calibrate(origin) // width: of the bracket
)

func calibrate(origin time.Time) (at int64, best time.Duration) {
	for i := range 8 {
		before := time.Since(origin)
		kernel := monotonic()
		width := time.Since(origin) - before
		if i == 0 || width < best {
			best, at = width, kernel-int64(before+width/2)
		}
	}
	return at, best
}

// Now is CLOCK_MONOTONIC in nanoseconds, without a system call.
func Now() int64 { return originNS + int64(time.Since(origin)) }

// At is the reading of CLOCK_MONOTONIC at time t, or the largest number where t is centuries away.
func At(t time.Time) int64 { return originNS + min(int64(t.Sub(origin)), math.MaxInt64-originNS) }
