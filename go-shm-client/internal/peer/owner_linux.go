package peer

import (
	"net"
	"syscall"
)

// owner is the user of the process that listened, as the kernel noted it then.
func owner(conn *net.UnixConn, _ string) (user int, known bool, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var credentials *syscall.Ucred
	failed := raw.Control(func(fd uintptr) {
		credentials, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if failed != nil {
		return 0, false, failed
	}
	if err != nil {
		return 0, false, err
	}
	return int(credentials.Uid), true, nil
}
