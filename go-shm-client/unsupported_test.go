//go:build !linux

package shm

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestWithoutSharedMemoryDialSaysSo(t *testing.T) {
	if _, err := Dial(context.Background(), "", WaitForServer()); !errors.Is(err, errors.ErrUnsupported) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}
