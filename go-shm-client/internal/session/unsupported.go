package session

import (
	"errors"
	"fmt"
	"runtime"

	"go-shm-client/internal/fault"
)

// unsupported is the error of a machine that lacks what a session needs. It is errors.ErrUnsupported.
func unsupported(lacks string) error {
	return fault.As(fmt.Errorf("shared memory needs %s, and this is %s/%s: packages uds and httpjson work everywhere", lacks, runtime.GOOS, runtime.GOARCH),
		errors.ErrUnsupported)
}
