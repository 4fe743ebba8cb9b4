//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go-shm-client/internal/fakeserver"
)

const nobody = "65534"

// This program is another user's server, too.
func TestMain(m *testing.M) {
	path := os.Getenv("SHM_TEST_SERVER")
	if path == "" {
		os.Exit(m.Run())
	}
	f := &fakeserver.Listener{Path: path, Slots: 4, Behaviour: func() fakeserver.Behaviour { return fakeserver.Behaviour{} }}
	if err := f.Listen(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	f.Close()
	os.Exit(0)
}

func TestAServerOfAnotherUserIsTalkedToWithAFlagThatTheErrorNames(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	folder, err := os.MkdirTemp("/tmp", "shm-client-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "sock")
	server := exec.Command("/proc/self/exe")
	server.Env = append(os.Environ(), "SHM_TEST_SERVER="+socket)
	server.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, _ := server.StdinPipe()
	stdout, _ := server.StdoutPipe()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := server.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "listening\n" {
		t.Fatal(line, err)
	}
	code, _, stderr := shmClient(t, "ping", "-n", "1", "-socket", socket)
	if code != 1 || !strings.HasSuffix(stderr, "-server-user "+nobody+"\n") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("code %d, %q", code, stderr)
	}
	if code, _, stderr := shmClient(t, "ping", "-n", "1", "-socket", socket, "-server-user", nobody); code != 0 {
		t.Errorf("with the flag: code %d, %q", code, stderr)
	}
}
