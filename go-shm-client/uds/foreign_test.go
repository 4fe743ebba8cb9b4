//go:build linux

package uds_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	shm "go-shm-client"
	"go-shm-client/uds"
)

const nobody = 65534

// This program is another user's server, too: an echo is answered with itself.
func TestMain(m *testing.M) {
	path := os.Getenv("UDS_TEST_SERVER")
	if path == "" {
		os.Exit(m.Run())
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for {
			socket, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(socket, socket)
		}
	}()
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	listener.Close()
	os.Exit(0)
}

func TestAServerOfAnotherUserIsTalkedToOnlyWhereThatIsSaid(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	folder, err := os.MkdirTemp("/tmp", "uds-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "sock")
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), "UDS_TEST_SERVER="+path)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	stdin, _ := command.StdinPipe()
	stdout, _ := command.StdoutPipe()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := command.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "listening\n" {
		t.Fatal(line, err)
	}
	var foreign *uds.ForeignServerError
	if _, err := uds.Dial(soon(t), path); !errors.As(err, &foreign) || foreign.User != nobody || !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	echoes(t, dial(t, path, uds.Options{ServerUsers: []int{nobody}}))
	echoes(t, dial(t, path, uds.Options{AnyServer: true}))
}

func TestAnOptionThatMakesNoSenseIsAnError(t *testing.T) {
	server := start(t, "", nil)
	for says, options := range map[string][]uds.Options{
		"uds: Options.Connections: -1, expected 0 (64) or more":         {{Connections: -1}},
		"uds: Options.ServerUsers: -1, expected a user's id, 0 or more": {{ServerUsers: []int{0, -1}}},
		"uds: 2 Options, expected one at most":                          {{}, {}},
	} {
		if client, err := uds.Dial(soon(t), server.path, options...); err == nil || client != nil || err.Error() != says {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestACallThatWasNotSentSaysSo(t *testing.T) {
	server := start(t, "", silent)
	client := dial(t, server.path, uds.Options{Connections: 1})
	for size, is := range map[int]error{shm.PixelBytes + 1: shm.ErrPixelCount, 0: shm.ErrPixelCount} {
		if _, err := client.Classify(soon(t), make([]byte, size)); !errors.Is(err, shm.ErrNotRun) || !errors.Is(err, is) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := client.Echo(soon(t), make([]byte, uds.MaxPayload+1)); !errors.Is(err, shm.ErrNotRun) {
		t.Error(err)
	}
	in := make(chan error)
	go func() {
		_, err := client.Echo(soon(t), []byte("?"))
		in <- err
	}()
	server.waitForPackets(t, 1)
	server.stop()
	if err := <-in; errors.Is(err, shm.ErrNotRun) || !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrNotRun) || !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("without a server: %v", err)
	}
	client.Close()
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrNotRun) || !errors.Is(err, shm.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
