package session

import "strings"

// world is one state of the machine. It is comparable: states already seen are not tried again.
type world struct {
	threads      [4]thread // 0 and 1: callers, 2: doorbell, 3: server
	closer       uint8     // 0: has not closed, 1: ending is set, 2: the socket is hung up, 3: the background reader is called
	call         [2]int32  // the states of call.go
	token        [2]uint8
	free         [2]bool
	submitted    [2]bool
	left         [2]uint8 // calls that a caller still makes
	ring         [4]uint8 // completions: slots in order, with ringMore the "more", of which there are ringed
	ringed       uint8
	taken        uint8 // completions that were reaped
	streams      [2]stream
	waiters      int8
	collected    uint8
	role         bool
	parked       bool  // client_parked
	reader       uint8 // as in reader.go
	readerCalled bool
	interrupt    bool
	bell         bool // in the socket
	eof          bool // in the socket
	ending       bool
	sealed       bool
	ended        bool
	unmapped     bool
}

// stream is what a prompt in a slot needs besides: texts that the server has said, and so on to the caller.
type stream struct{ text, published, mores, seen, acknowledged, read uint8 }

// ringMore marks a "more" in the ring.
const ringMore = 2

// thread is one thread's program counter and locals.
type thread struct {
	at, reapThen, leaveThen, collectThen, take, failed pc // where it is, and where subroutines return to
	got, head                                          uint8
	reaper, asleep, over                               bool
}

type pc uint8

const (
	callClaim pc = iota
	callAdmit
	callDisarm
	callPublish
	callSpinFirst
	callSpin
	callSpun
	callCount
	callSleep
	callRecheck
	callUnsleep
	callUncount
	callReap
	callLeave
	callLeft
	callReaderTake
	callReading
	callLook
	callDoorWait
	callBell
	callBellReap
	callBellLeave
	callNoBell
	callLeaveReading
	callLeftReading
	callWait
	callAbandon
	callDrain
	callNews
	callAcknowledge
	callRead
	callAgain
	callPolls
	callGiveUp
	callGiveCall
	callGiveLate // only with abandonAwake
	callGiveReap
	callGiveLeave
	callGiveSwap
	callGiveUncount
	callEnded
	callRelease
	callOver

	bellOff
	bellTake
	bellRead
	bellReap
	bellLeave
	bellDuty
	bellQuit

	endBegin
	endRole
	endSeal
	endStore
	endFail0
	endFail1
	endCollect
	endOver

	serverNext
	serverMore
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
	reapMore
	reapMoreSwap
	reapMoreLate // only with moreLate
	reapSwap
	reapSleeper
	reapToken
	reapWake
	reapAbandoned
	reapFree

	collect
)

func (p pc) String() string {
	return strings.Fields(`callClaim callAdmit callDisarm callPublish callSpinFirst callSpin callSpun callCount callSleep callRecheck callUnsleep callUncount
		callReap callLeave callLeft callReaderTake callReading callLook callDoorWait callBell callBellReap callBellLeave callNoBell
		callLeaveReading callLeftReading callWait callAbandon callDrain callNews callAcknowledge callRead callAgain callPolls
		callGiveUp callGiveCall callGiveLate callGiveReap callGiveLeave callGiveSwap callGiveUncount callEnded callRelease callOver
		bellOff bellTake bellRead bellReap bellLeave bellDuty bellQuit
		endBegin endRole endSeal endStore endFail0 endFail1 endCollect endOver
		serverNext serverMore serverSwap serverRing
		takeLoad takeSwap
		leaveStore leaveCount leaveArm leavePeek leaveDisarm leaveArmed
		reapTake reapMore reapMoreSwap reapMoreLate reapSwap reapSleeper reapToken reapWake reapAbandoned reapFree
		collect`)[p]
}

// rules switch parts of the protocol off, to see that the checker notices.
type rules struct {
	calls   [2]uint8 // of each caller
	cancel  bool     // contexts may end at any time
	die     bool     // the server may die at any time
	close   bool     // the client may be closed at any time
	forever bool     // spinners give up only when they must
	texts   [2]uint8 // of each caller's calls that are prompts: texts that the server says, each once the one before was read

	noCount       bool // leaveRole does not look at waiters after letting go
	noLastLook    bool // leaveRole does not look at the ring after arming
	armFirst      bool // leaveRole arms and looks before letting go
	countLate     bool // a sleeper counts itself after its try for the role
	abandonEarly  bool // an abandoner lets go of its slot before the role
	noSeal        bool // End does not stop submissions
	uncounted     bool // an abandoned call does not count as a waiter
	noRecheck     bool // a sleeper does not look for a "more" that was reaped before
	noFirstLook   bool // nor does a spinner
	readFirst     bool // the text is read before it is acknowledged
	moreLate      bool // the reaper counts a "more" after its look for a sleeper
	abandonAwake  bool // one who is awake abandons its call before it counts itself
	noInterrupt   bool // a reaper does not look whether the sleeper waits at the socket
	noLook        bool // a caller that reads does not look at its state before it waits
	noReaderCount bool // whoever leaves the reader role does not look at waiters
	noCall        bool // one who is awake abandons its call to nobody
}
