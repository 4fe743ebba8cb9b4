package doorbell

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

// connected is a doorbell and the server's end of its socket.
func connected(t *testing.T) (*Doorbell, *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(file) // a copy
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	bell, err := newDoorbell(ends[0])
	if err != nil {
		t.Fatal(err)
	}
	return bell, ends[1]
}

// listen reads bells until the session's end, and says why it ended.
func listen(bell *Doorbell, onBell func(int)) error {
	for {
		bells, over := bell.Wait()
		if bells > 0 {
			onBell(bells)
		}
		if over {
			return bell.Why()
		}
	}
}

func TestARingIsOneByteAndAFullSocketDropsIt(t *testing.T) {
	bell, server := connected(t)
	bell.Ring()
	var got [2]byte
	if n, err := server.Read(got[:]); n != 1 || err != nil || got[0] != 1 {
		t.Fatalf("%d bytes, % x, %v", n, got, err)
	}
	for range 200_000 { // more than any socket holds: those that do not fit are dropped, none waits
		bell.Ring()
	}
	bell.Close()
	rest, err := io.ReadAll(server)
	if err != nil || len(rest) == 0 || len(rest) == 200_000 {
		t.Errorf("%d bells came through, %v", len(rest), err)
	}
}

func TestARingAllocatesNothing(t *testing.T) {
	bell, _ := connected(t)
	if n := testing.AllocsPerRun(100, bell.Ring); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestARingAfterTheServerHasGoneIsHarmless(t *testing.T) {
	bell, server := connected(t)
	server.Close()
	bell.Ring() // EPIPE, and no SIGPIPE
	bell.Close()
	bell.Ring()
}

func TestListenSaysWhyTheSessionEnded(t *testing.T) {
	frame := func(kind, bodyBytes byte, body ...byte) []byte {
		return append([]byte{'S', 'T', 'B', '1', kind, 0, 0, 0, bodyBytes, 0, 0, 0, 0, 0, 0, 0}, body...)
	}
	for _, c := range []struct {
		name   string
		pieces [][]byte
		bells  int
		is     []error
		isNot  []error
		text   string
	}{
		{"end of file", nil, 0,
			[]error{fault.ServerGone}, []error{fault.Draining, fault.Protocol}, "without a goodbye"},
		{"bells, then end of file", [][]byte{{1, 1, 1}}, 3,
			[]error{fault.ServerGone}, []error{fault.Draining, fault.Protocol}, "without a goodbye"},
		{"goodbye because of draining", [][]byte{frame(4, 8+3, 8, 0, 0, 0, 3, 0, 0, 0, 'b', 'y', 'e')}, 0,
			[]error{fault.ServerGone, fault.Draining}, []error{fault.Protocol, fault.Moved, fault.NotRun}, "it ended the session: bye"},
		{"goodbye because the model has moved", [][]byte{frame(4, 8, 11, 0, 0, 0, 0, 0, 0, 0)}, 0,
			[]error{fault.ServerGone, fault.Moved, fault.NotRun}, []error{fault.Draining, fault.Protocol}, "it ended the session: moved"},
		{"goodbye because of our protocol, in pieces", [][]byte{{1, 'S'}, {'T', 'B', '1', 4}, {0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0}, {0, 0, 0, 0, 0, 0}}, 1,
			[]error{fault.ServerGone, fault.Protocol}, []error{fault.Draining}, "it ended the session: protocol"},
		{"a goodbye cut short", [][]byte{frame(4, 8, 8, 0)}, 0,
			[]error{fault.ServerGone, io.ErrUnexpectedEOF}, []error{fault.Draining}, "unexpected EOF"},
		{"a goodbye too short for a reason", [][]byte{frame(4, 2, 8, 0)}, 0,
			[]error{fault.ServerGone, fault.Protocol}, []error{fault.Draining}, "reason of 2 bytes"},
		{"a second welcome", [][]byte{frame(2, 0)}, 0,
			[]error{fault.ServerGone, fault.Protocol}, nil, "message of kind 2 after the handshake"},
		{"a byte that is neither bell nor message", [][]byte{{1, 0, 1}, make([]byte, 16)}, 1,
			[]error{fault.ServerGone, fault.Protocol}, nil, "message begins with"},
	} {
		bell, server := connected(t)
		go func() {
			for _, piece := range c.pieces {
				server.Write(piece)
				time.Sleep(time.Millisecond)
			}
			server.Close()
		}()
		bells := 0
		err := listen(bell, func(n int) { bells += n })
		if bells != c.bells || err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %d bells, %v", c.name, bells, err)
		}
		for _, is := range c.is {
			if !errors.Is(err, is) {
				t.Errorf("%s: %v is not %q", c.name, err, is)
			}
		}
		for _, not := range c.isNot {
			if errors.Is(err, not) {
				t.Errorf("%s: %v is %q", c.name, err, not)
			}
		}
		bell.Close()
	}
}

func TestAGoodbyeThatStallsEndsTheSessionAllTheSame(t *testing.T) {
	bell, server := connected(t)
	bell.patience = time.Millisecond
	server.Write([]byte("S"))
	if err := listen(bell, func(int) {}); !errors.Is(err, fault.ServerGone) {
		t.Error(err)
	}
}

func TestAServerThatClosesWithBellsUnreadIsReadToTheEnd(t *testing.T) {
	bell, server := connected(t)
	bell.Ring()
	server.Write(append([]byte{1}, []byte{
		'S', 'T', 'B', '1', 4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, // frame: kind goodbye, 8 bytes
		8, 0, 0, 0, 0, 0, 0, 0, // reason: draining
	}...))
	server.Close() // the kernel resets the connection: our bell was not read
	bells := 0
	if err := listen(bell, func(n int) { bells += n }); bells != 1 || !errors.Is(err, fault.Draining) {
		t.Errorf("%d bells, %v", bells, err)
	}
	bell, server = connected(t)
	bell.Ring()
	server.Close()
	if err := listen(bell, func(int) {}); !errors.Is(err, fault.ServerGone) || !strings.Contains(err.Error(), "without a goodbye") {
		t.Error(err)
	}
}

func TestAnInterruptIsNoticedOnceAndLosesNoBell(t *testing.T) {
	bell, server := connected(t)
	for range 3 {
		rang := make(chan int)
		go func() {
			bells, over := bell.Wait()
			if over {
				t.Error("it is over")
			}
			rang <- bells
		}()
		bell.Interrupt()
		if bells := <-rang; bells != 0 {
			t.Errorf("%d bells", bells)
		}
		server.Write([]byte{1, 1})
		if bells, over := bell.Wait(); bells != 2 || over {
			t.Errorf("%d bells, over %t", bells, over)
		}
	}
	server.Write([]byte{1})
	bell.Interrupt()
	bells := 0
	for range 2 { // in either order
		n, over := bell.Wait()
		if bells += n; over {
			t.Error("it is over")
		}
		if bells == 1 {
			break
		}
	}
	if bells != 1 {
		t.Errorf("%d bells", bells)
	}
}

func TestAnInterruptDoesNotCutAGoodbyeShort(t *testing.T) {
	bell, server := connected(t)
	bell.patience = time.Minute
	goodbye := []byte{
		'S', 'T', 'B', '1', 4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, // frame: kind goodbye, 8 bytes
		8, 0, 0, 0, 0, 0, 0, 0, // reason: draining
	}
	server.Write(goodbye[:7])
	if _, over := bell.Wait(); !over {
		t.Error("it is not over")
	}
	why := make(chan error)
	go func() { why <- bell.Why() }()
	for _, b := range goodbye[7:] { // it waits for the next byte, or is about to
		bell.Interrupt()
		server.Write([]byte{b})
	}
	if err := <-why; !errors.Is(err, fault.Draining) {
		t.Error(err)
	}
}

func TestHangingUpEndsTheWait(t *testing.T) {
	bell, _ := connected(t)
	ended := make(chan error)
	go func() { ended <- listen(bell, func(int) {}) }()
	bell.HangUp()
	if err := <-ended; !errors.Is(err, fault.ServerGone) {
		t.Error(err)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	for reason, want := range map[Reason]string{layout.ReasonNoMemory: "no memory", 999: "reason 999"} {
		if got := reason.String(); got != want {
			t.Errorf("%d: %q", reason, got)
		}
	}
}
