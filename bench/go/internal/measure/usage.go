package measure

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// Usage is the CPU time of this process.
type Usage struct {
	UserSeconds   float64 `json:"user_s"`
	SystemSeconds float64 `json:"sys_s"`
}

// Own is what this process has used so far.
func Own() (Usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return Usage{}, fmt.Errorf("getrusage: %w", err)
	}
	return Usage{time.Duration(r.Utime.Nano()).Seconds(), time.Duration(r.Stime.Nano()).Seconds()}, nil
}

// Since is what was used between before and u.
func (u Usage) Since(before Usage) Usage {
	return Usage{u.UserSeconds - before.UserSeconds, u.SystemSeconds - before.SystemSeconds}
}

// CPUSeconds is what another process has used so far: the server, read by its client, so that it covers exactly what the
// client measures. The kernel's CPU clock of a process counts nanoseconds, also of threads that have ended; what /proc
// says of user and system time is cut to 10 ms.
func CPUSeconds(pid int) (float64, error) {
	var t syscall.Timespec
	clock := uintptr(int32(^pid)<<3 | 2) // CPUCLOCK_SCHED of a process, what clock_getcpuclockid(3) gives
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, errno)
	}
	return time.Duration(t.Nano()).Seconds(), nil
}
