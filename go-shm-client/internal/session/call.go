package session

import (
	"sync/atomic"

	"go-shm-client/internal/layout"
)

// The states of a slot's call, and who takes it from one to the next. "Reaper" is whoever holds the lane's reaper
// role (reap.go); the owner is the goroutine that holds the slot.
//
//	          owner publishes              owner                        owner's context ended
//	idle ----------------------> pending ---------> sleeping ---------------------------> abandoned
//	 ^                              |   <---------     |                                      |
//	 |                              |  reaper: "more"  |                                      |
//	 |                       reaper |           reaper | sends one token           reaper     |
//	 |                              v                  v                                      |
//	 +----- owner releases ------- done <--------------+                                      |
//	 +---------------------------- reaper releases the slot for the owner that left ----------+
//
// Every arrow out of pending, sleeping and abandoned is one atomic Swap or CompareAndSwap, so exactly one side wins:
//
//   - owner sleeps (CAS pending->sleeping) against reaper delivers (Swap done). CAS wins: the reaper finds sleeping
//     and sends a token. Swap wins: the CAS fails, the owner finds done, and there is no token.
//   - owner abandons (CAS sleeping->abandoned) against reaper delivers (Swap done). Owner first: the reaper finds
//     abandoned, and the slot is the reaper's to release; the owner touches it no more. Reaper first: the CAS fails, so
//     the reaper found sleeping and its token is sent or on its way; the owner takes it, and the slot stays its own.
//
// A prompt's call gets any number of "more" before it is done. The reaper counts one in `mores`, then wakes a sleeper
// (CAS sleeping->pending, and a token). An owner that goes to sleep looks at `mores` once more after its CAS
// pending->sleeping. Both are sequentially consistent, so one of them sees the other: the reaper the sleeper, or the owner
// the count. Should both, the CAS out of sleeping tells who was first: the owner, who goes on without a token
// (CAS sleeping->pending), or the reaper, whose token the owner takes. An owner that is awake abandons its call from
// pending, by CAS as well.
//
// So `wake` carries exactly one token for each time that the reaper took the call out of sleeping, always taken by the owner
// before it sleeps again or the slot is used again, and its one place suffices: a send never blocks. The slot is released by
// the owner after done, or by the reaper after abandoned, never by both and never by neither.
const (
	idle int32 = iota
	pending
	sleeping
	abandoned
	done
)

// call is what waits for the completion of one slot's submission.
type call struct {
	state     atomic.Int32
	mores     atomic.Uint32 // "more" completions that were reaped
	taken     uint32        // of those, how many the owner has seen; the owner's alone
	streaming bool          // "more" is expected; written and read like requestID
	failed    bool          // with done: the session ended first; Lane.failure says why
	requestID uint64        // written before pending is stored, read by the reaper after it is loaded
	wake      chan struct{}
	result    layout.Completion // written by the reaper before the Swap to done, read by the owner after it

	_ [32]byte // 128 bytes in all: calls of neighbouring slots are finished by different goroutines: not in one line
}

// news is whether there is something for the owner: the end, or a "more" that it has not seen.
func (c *call) news() bool { return c.state.Load() == done || c.mores.Load() != c.taken }

// inFlight is whether the server owes a completion.
func inFlight(state int32) bool { return state == pending || state == sleeping || state == abandoned }
