package shm

import (
	"os"
	"path/filepath"
)

const socketName = "shm-server.sock"

// DefaultSocket is where `shm-server serve` listens unless told otherwise: shm-server.sock in $XDG_RUNTIME_DIR, which only
// this user can write to, where that names a directory by an absolute path; else in /tmp.
func DefaultSocket() string {
	if folder := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(folder) {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			return filepath.Join(folder, socketName)
		}
	}
	return "/tmp/" + socketName
}
