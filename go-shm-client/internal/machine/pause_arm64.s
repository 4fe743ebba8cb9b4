#include "textflag.h"

// func Pause()
// YIELD is a no-op on most cores; ISB waits a few cycles. The server's core does the same.
TEXT ·Pause(SB), NOSPLIT, $0-0
	ISB $15
	RET
