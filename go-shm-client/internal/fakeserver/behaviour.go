package fakeserver

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"go-shm-client/internal/layout"
)

// Behaviour is how a Server runs. The zero one answers each submission at once and sleeps when there is none.
type Behaviour struct {
	Random *rand.Rand // for what follows; nil: nothing does
	Hold   int        // keep up to this many submissions back, and answer them in any order
	Delay  time.Duration
	Polls  int // polls without news before sleeping; a random number up to this
	Answer func(*Server, layout.Submission)
	Paused *atomic.Bool // while it is true, submissions are taken but not answered
}

// Run serves until stop is closed. bells carries the client's bells.
func (s *Server) Run(b Behaviour, bells <-chan struct{}, stop <-chan struct{}) {
	answer := b.Answer
	if answer == nil {
		answer = (*Server).Echo
	}
	var held []layout.Submission
	for idle := 0; ; {
		select {
		case <-stop:
			return
		default:
		}
		got, news := s.Take()
		if news {
			idle = 0
			held = append(held, got)
		} else {
			idle++
		}
		if b.Paused != nil && b.Paused.Load() {
			time.Sleep(50 * time.Microsecond)
			continue
		}
		if len(held) > 0 && (!news || len(held) > b.Hold) {
			i := 0
			if b.Random != nil {
				i = b.Random.IntN(len(held))
				if b.Delay > 0 && b.Random.IntN(8) == 0 {
					time.Sleep(time.Duration(b.Random.Int64N(int64(b.Delay))))
				}
			}
			answer(s, held[i])
			held = append(held[:i], held[i+1:]...)
			continue
		}
		if news || b.Polls > 0 && idle < b.Random.IntN(b.Polls)+1 {
			runtime.Gosched()
			continue
		}
		if !s.Park() {
			continue
		}
		select {
		case <-bells:
		case <-stop:
			return
		}
		s.Unpark()
		idle = 0
	}
}
