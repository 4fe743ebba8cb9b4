// Package peer says whether the process at the other end of a Unix socket is one to talk to: whoever comes first can listen at a
// path in /tmp, and is then sent the pictures and prompts of others.
package peer

import (
	"fmt"
	"net"
	"os"
	"slices"
)

// A Trust is whose servers are trusted, besides our own and root's.
type Trust struct {
	Anyone bool
	Users  []int // ids
}

// Trusting is the Trust that a program's options stand for.
func Trusting(anyone bool, users []int) (Trust, error) {
	for _, id := range users {
		if id < 0 {
			return Trust{}, fmt.Errorf("Options.ServerUsers: %d, expected a user's id, 0 or more", id)
		}
	}
	return Trust{anyone, slices.Clone(users)}, nil
}

// A ForeignServerError is a server of a user that is not trusted. It is os.ErrPermission.
type ForeignServerError struct {
	Path string
	User int // its id
}

func (e *ForeignServerError) Error() string {
	return fmt.Sprintf("the server at %s runs as user %d, neither as this one (%d) nor as root: whoever it is would see your data; "+
		"if it is meant to serve others (--allow-other-users), name its user as trusted", e.Path, e.User, os.Geteuid())
}

func (e *ForeignServerError) Is(target error) bool { return target == os.ErrPermission }

// Check is nil where the server that conn is connected to may be talked to. It is asked before the first byte is sent.
func (t Trust) Check(conn *net.UnixConn, path string) error {
	if t.Anyone {
		return nil
	}
	user, known, err := owner(conn, path)
	if err != nil {
		return fmt.Errorf("whose server is at %s: %w", path, err)
	}
	if known && user != os.Geteuid() && user != 0 && !slices.Contains(t.Users, user) {
		return &ForeignServerError{Path: path, User: user}
	}
	return nil
}
