package doorbell

import (
	"io"
	"net"
	"syscall"

	"go-shm-client/internal/fault"
)

// rightsReader reads a stream and keeps the descriptors that travel with its bytes. The kernel closes nothing for
// us: each one received is closed by closeAll unless it was taken.
type rightsReader struct {
	conn *net.UnixConn
	fds  []int
}

func (r *rightsReader) Read(p []byte) (int, error) {
	var control [128]byte                                       // room for more than the one that is expected: all of them must be closed
	n, used, flags, _, err := r.conn.ReadMsgUnix(p, control[:]) // sets MSG_CMSG_CLOEXEC
	if used > 0 {
		messages, parseErr := syscall.ParseSocketControlMessage(control[:used])
		for i := range messages {
			if fds, rightsErr := syscall.ParseUnixRights(&messages[i]); rightsErr == nil {
				r.fds = append(r.fds, fds...)
			}
		}
		if err == nil && (parseErr != nil || flags&syscall.MSG_CTRUNC != 0) {
			err = fault.Violated("frame", "more descriptors than one")
		}
	}
	if err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// take gives the one descriptor to the caller.
func (r *rightsReader) take() (int, error) {
	if len(r.fds) != 1 {
		return -1, fault.Violated("frame", "welcome with %d descriptors, not 1", len(r.fds))
	}
	fd := r.fds[0]
	r.fds = nil
	return fd, nil
}

func (r *rightsReader) closeAll() {
	for _, fd := range r.fds {
		syscall.Close(fd)
	}
}
