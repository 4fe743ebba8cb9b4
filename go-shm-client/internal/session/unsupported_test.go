package session

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
)

func TestWhatIsNotSupportedIsSaidInOneLine(t *testing.T) {
	err := unsupported("a little-endian processor")
	if !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fault.ServerGone) {
		t.Error(err)
	}
	want := "shared memory needs a little-endian processor, and this is " + runtime.GOOS + "/" + runtime.GOARCH + ": packages uds and httpjson work everywhere"
	if err.Error() != want || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q, want %q", err, want)
	}
}
