//go:build !linux

package shm

import (
	"errors"
	"strings"
	"testing"
)

func TestWithoutSharedMemoryNewClientSaysSo(t *testing.T) {
	if _, err := NewClient(""); !errors.Is(err, errors.ErrUnsupported) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}
