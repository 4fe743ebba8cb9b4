package measure

import (
	"context"
	"time"
)

// Nothing stays connected and makes no call: what does it cost to be there?
func Nothing(ctx context.Context, lasting time.Duration) Result {
	start := time.Now()
	select {
	case <-time.After(lasting):
	case <-ctx.Done():
	}
	return result(nil, time.Since(start))
}
