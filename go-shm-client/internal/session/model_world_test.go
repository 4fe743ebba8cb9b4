package session

import "strings"

// world is one state of the machine. It is comparable: states already seen are not tried again.
type world struct {
	threads   [4]thread // 0 and 1: callers, 2: doorbell, 3: server
	closer    uint8     // 0: has not closed, 1: ending is set, 2: the socket is hung up
	call      [2]int32  // the states of call.go
	token     [2]uint8
	free      [2]bool
	submitted [2]bool
	left      [2]uint8 // calls that a caller still makes
	ring      [2]uint8 // completions: slots in order, of which there are ringed
	ringed    uint8
	taken     uint8 // completions that were reaped
	waiters   int8
	collected uint8
	role      bool
	parked    bool // client_parked
	bell      bool // in the socket
	eof       bool // in the socket
	ending    bool
	sealed    bool
	ended     bool
	unmapped  bool
}

// thread is one thread's program counter and locals.
type thread struct {
	at, reapThen, leaveThen, buryThen, take, failed pc // where it is, and where subroutines return to
	got, head                                       uint8
	reaper, asleep                                  bool
}

type pc uint8

const (
	callClaim pc = iota
	callAdmit
	callDisarm
	callPublish
	callSpin
	callSpun
	callCount
	callSleep
	callUncount
	callReap
	callLeave
	callLeft
	callWait
	callAbandon
	callDrain
	callEnded
	callRelease
	callOver

	bellRead
	bellReap
	bellLeave

	endHasten
	endRole
	endSeal
	endStore
	endFail0
	endFail1
	endBury
	endOver

	serverNext
	serverSwap
	serverRing

	takeLoad
	takeSwap

	leaveStore
	leaveCount
	leaveArm
	leavePeek
	leaveDisarm
	leaveArmed // only with armFirst

	reapTake
	reapSwap
	reapSleeper
	reapToken
	reapAbandoned
	reapFree

	bury
)

func (p pc) String() string {
	return strings.Fields(`callClaim callAdmit callDisarm callPublish callSpin callSpun callCount callSleep callUncount callReap callLeave callLeft callWait callAbandon callDrain callEnded callRelease callOver
		bellRead bellReap bellLeave
		endHasten endRole endSeal endStore endFail0 endFail1 endBury endOver
		serverNext serverSwap serverRing
		takeLoad takeSwap
		leaveStore leaveCount leaveArm leavePeek leaveDisarm leaveArmed
		reapTake reapSwap reapSleeper reapToken reapAbandoned reapFree
		bury`)[p]
}

// rules switch parts of the protocol off, to see that the checker notices.
type rules struct {
	calls   [2]uint8 // of each caller
	cancel  bool     // contexts may end at any time
	die     bool     // the server may die at any time
	close   bool     // the client may be closed at any time
	forever bool     // spinners give up only when they must

	noCount      bool // leaveRole does not look at waiters after letting go
	noLastLook   bool // leaveRole does not look at the ring after arming
	armFirst     bool // leaveRole arms and looks before letting go
	countLate    bool // a sleeper counts itself after its try for the role
	abandonEarly bool // an abandoner lets go of its slot before the role
	noSeal       bool // End does not stop submissions
	uncounted    bool // an abandoned call does not count as a waiter
}
