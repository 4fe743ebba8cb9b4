//go:build linux

package shm

import (
	"bufio"
	"context"
	"errors"
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

// nobody is the id of a user who is neither root nor, most likely, whoever runs the tests.
const nobody = 65534

// This program is another user's server, or client, too.
func TestMain(m *testing.M) {
	if path := os.Getenv("SHM_TEST_SERVER"); path != "" {
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
	if path := os.Getenv("SHM_TEST_CLIENT"); path != "" {
		client, err := NewClient(path)
		if err == nil {
			_, err = client.Echo(context.Background(), gray(1))
		}
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// asNobody is this program run by another user.
func asNobody(t *testing.T, setting string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	command := exec.Command("/proc/self/exe") // which leads there whatever its directory allows
	command.Env = append(os.Environ(), setting)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return command
}

// publicFolder is one where everybody can make a socket, as /tmp is.
func publicFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "shm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestAServerOfAnotherUserIsTalkedToOnlyWhereThatIsSaid(t *testing.T) {
	path := filepath.Join(publicFolder(t), "sock")
	command := asNobody(t, "SHM_TEST_SERVER="+path)
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
	for name, err := range map[string]error{
		"by default":   func() error { _, err := clientOf(t, path).Echo(soon(t), gray(1)); return err }(),
		"another's":    clientOf(t, path, Options{ServerUsers: []int{nobody - 1}}).WaitReady(soon(t)),
		"even waiting": clientOf(t, path).WaitReady(soon(t)),
		"asking":       func() error { _, err := clientOf(t, path).Models(soon(t)); return err }(),
	} {
		var foreign *ForeignServerError
		if !errors.As(err, &foreign) || foreign.User != nobody || foreign.Path != path || !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrServerGone) {
			t.Errorf("%s: %v", name, err)
		} else if !strings.Contains(err.Error(), "runs as user 65534") || !strings.Contains(err.Error(), "--allow-other-users") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, options := range map[string]Options{"that user's": {ServerUsers: []int{12345, nobody}}, "anybody's": {AnyServer: true}} {
		client := clientOf(t, path, options)
		if _, err := client.Echo(soon(t), gray(1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		client.Close()
	}
}

func TestAServerOfRootIsTrusted(t *testing.T) {
	path := filepath.Join(publicFolder(t), "sock")
	command := asNobody(t, "SHM_TEST_CLIENT="+path)
	startFakeAt(t, path, 4)
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if said, err := command.Output(); err != nil || string(said) != "<nil>\n" {
		t.Errorf("%q, %v", said, err)
	}
}
