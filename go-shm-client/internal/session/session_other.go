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

// Dial says that there are no sessions here.
func Dial(context.Context, string, peer.Trust, doorbell.Request, time.Duration, *Counters) (*Session, error) {
	return nil, unsupported("Linux")
}

func (s *Session) Done() <-chan struct{} { return nil }
func (s *Session) Err() error            { return nil }
func (s *Session) Close(error)           {}
