//go:build unix && !linux

package peer

import (
	"net"
	"os"
	"syscall"
)

// owner is the user that the socket's file belongs to. In /tmp nobody but that user and root can have put it there.
func owner(_ *net.UnixConn, path string) (user int, known bool, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, false, err
	}
	stat, known := info.Sys().(*syscall.Stat_t)
	if known {
		user = int(stat.Uid)
	}
	return user, known, nil
}
