//go:build !linux

package machine

import "time"

// monotonic counts from the start of the process: here no other process reads the same clock.
func monotonic() int64 { return int64(time.Since(origin)) }
