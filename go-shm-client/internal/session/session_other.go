//go:build !linux

package session

import (
	"context"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/peer"
)

// Session is what there is none of here.
type Session struct {
	*Lane
	Metadata doorbell.Metadata
	Epoch    uint64
}

// Supported says that there are no sessions here.
func Supported() error { return unsupported("Linux") }

// Dial says so too.
func Dial(context.Context, string, peer.Trust, doorbell.Request, time.Duration, *Counters) (*Session, error) {
	return nil, Supported()
}

func (s *Session) Done() <-chan struct{} { return nil }
func (s *Session) Err() error            { return nil }
func (s *Session) Close(error)           {}
