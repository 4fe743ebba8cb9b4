package doorbell

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/peer"
)

// A welcome written by hand: frame head, welcome, metadata.
func goodWelcome() []byte {
	return withMetadata(`{"server": "s", "model": {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}}`)
}

func withMetadata(metadata string) []byte {
	return append([]byte{
		'S', 'T', 'B', '1', // magic
		2, 0, // kind: welcome
		0, 0, // reserved
		byte(40 + len(metadata)), 0, 0, 0, // body_bytes
		0, 0, 0, 0, // reserved
		2, 0, // layout_major
		9, 0, // layout_minor: newer, to be ignored
		byte(len(metadata)), 0, 0, 0, // metadata_bytes
		0, 0x20, 0, 0, 0, 0, 0, 0, // segment_bytes: 8192
		7, 0, 0, 0, 0, 0, 0, 0, // epoch
		0, 0, 0, 0, 0, 0, 0, 0, // features
		0, 0, 0, 0, 0, 0, 0, 0, // clock: not said
	}, metadata...)
}

var request = Request{Protocol: layout.ProtocolCall, Model: "größe", Slots: 16, InputExtent: 512}

// helloBytes is how long the hello with that request is.
const helloBytes = layout.FrameBytes + layout.HelloBytes + 7

// serve listens, reads one hello and lets answer answer it.
func serve(t *testing.T, answer func(conn *net.UnixConn)) (path string) {
	t.Helper()
	return serveFirst(t, helloBytes, answer)
}

// serveFirst is serve for a first message of n bytes.
func serveFirst(t *testing.T, n int, answer func(conn *net.UnixConn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.ReadFull(conn, make([]byte, n))
		answer(conn)
	}()
	t.Cleanup(func() { listener.Close(); <-finished })
	return path
}

// send sends message with n descriptors.
func send(message []byte, n int) func(*net.UnixConn) {
	return func(conn *net.UnixConn) {
		var rights []byte
		if n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = 0 // any: the kernel makes copies
			}
			rights = syscall.UnixRights(fds...)
		}
		_, _, _ = conn.WriteMsgUnix(message, rights, nil)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

func TestTheHelloIsWhatTheLayoutSays(t *testing.T) {
	got := encodeFrame(layout.FrameKindHello, encodeHello(request))
	want := []byte{
		'S', 'T', 'B', '1', // magic
		1, 0, // kind: hello
		0, 0, // reserved
		47, 0, 0, 0, // body_bytes
		0, 0, 0, 0, // reserved
		2, 0, // layout_major
		0, 0, // layout_minor
		1, 0, 0, 0, // protocol: call
		0, 0, 0, 0, 0, 0, 0, 0, // features_known
		0, 0, 0, 0, 0, 0, 0, 0, // features_needed
		16, 0, 0, 0, // slot_count
		0, 2, 0, 0, // input_extent: 512
		0, 0, 0, 0, // output_extent
		7, 0, 0, 0, // model_bytes
		'g', 'r', 0xc3, 0xb6, 0xc3, 0x9f, 'e', // the model's name in UTF-8
	}
	if string(got) != string(want) {
		t.Errorf("% x\nwant\n% x", got, want)
	}
}

func TestAWelcomeMayComeInPiecesWithABellBehindIt(t *testing.T) {
	path := serve(t, func(conn *net.UnixConn) {
		message := goodWelcome()
		send(message[:5], 1)(conn) // the descriptor comes with the first byte
		for _, b := range message[5:] {
			_, _ = conn.Write([]byte{b})
		}
		_, _ = conn.Write([]byte{layout.Bell})
		_, _ = io.Copy(io.Discard, conn)
	})
	bell, welcome, fd, err := Dial(context.Background(), path, peer.Trust{}, request)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	if welcome.SegmentBytes != 8192 || welcome.Epoch != 7 || welcome.Metadata.Server != "s" || welcome.Metadata.Model.String() != `"m" ("x" FP32 [-1 4]) -> ()` {
		t.Errorf("%+v", welcome)
	}
	bells := 0
	err = listen(bell, func(n int) {
		bells += n
		bell.HangUp()
	})
	if bells != 1 || !errors.Is(err, fault.ServerGone) {
		t.Errorf("%d bells, %v", bells, err)
	}
	bell.Close()
}

// hostile is what a server sends, with so many descriptors, and the rule that it breaks: "" = it is gone.
type hostile struct {
	name    string
	message []byte
	fds     int
	rule    string
}

func TestHostileWelcomesAreRejectedAndLeakNoDescriptor(t *testing.T) {
	with := func(at int, literal ...byte) []byte {
		message := goodWelcome()
		copy(message[at:], literal)
		return message
	}
	cases := []hostile{
		{"an HTTP server", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, "magic"},
		{"a body of 64 KiB and a byte", with(8, 1, 0, 1, 0), 1, "frame"},
		{"a body of 4 GiB", with(8, 0xff, 0xff, 0xff, 0xff), 1, "frame"},
		{"a goodbye instead", with(4, 4), 1, "frame"},
		{"a kind that there is not", with(4, 77), 1, "frame"},
		{"a body of 39 bytes", with(8, 39), 1, "frame"},
		{"major 1", with(16, 1), 1, "version"},
		{"metadata longer than the body", with(20, 200), 1, "frame"},
		{"metadata of 4 GiB", with(20, 0xff, 0xff, 0xff, 0xff), 1, "frame"},
		{"metadata cut short", with(20, 10), 1, "frame"},
		{"no metadata", with(20, 0), 1, "frame"},
		{"a model that is no signature", withMetadata(`{"server": "s", "model": "m"}`), 1, "frame"},
		{"a shape of fractions", withMetadata(`{"model": {"inputs": [{"shape": [0.5]}]}}`), 1, "frame"},
		{"segment_bytes 0", with(24, 0, 0), 1, "geometry"},
		{"segment_bytes 1 GiB and a byte", with(24, 1, 0, 0, 0x40), 1, "geometry"},
		{"epoch 0", with(32, 0), 1, "epoch"},
		{"a clock that reads 2^64 - 1", with(48, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 1, "clock"},
		{"no descriptor", goodWelcome(), 0, "frame"},
		{"two descriptors", goodWelcome(), 2, "frame"},
		{"fifty descriptors", goodWelcome(), 50, "frame"},
		{"half a welcome", goodWelcome()[:30], 1, ""},
		{"a refusal of 4 bytes", []byte{'S', 'T', 'B', '1', 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 0, "frame"},
		{"nothing at all", nil, 0, ""},
	}
	mustBeRejected(t, cases, serve, func(path string) error {
		_, _, _, err := Dial(context.Background(), path, peer.Trust{}, request)
		return err
	})
}

// mustBeRejected has a server send each of the messages to who asks it, and sees the right error and no descriptor left.
func mustBeRejected(t *testing.T, cases []hostile, listen func(*testing.T, func(*net.UnixConn)) string, ask func(path string) error) {
	t.Helper()
	serve(t, func(*net.UnixConn) {}) // the first socket of a process opens the runtime's own descriptors too
	before := descriptors(t)
	for _, c := range cases {
		path := listen(t, func(conn *net.UnixConn) {
			if c.message != nil {
				send(c.message, c.fds)(conn)
			}
		})
		err := ask(path)
		var violation *fault.Violation
		switch {
		case err == nil:
			t.Errorf("%s: accepted", c.name)
		case c.rule == "":
			if !errors.Is(err, fault.ServerGone) {
				t.Errorf("%s: %v", c.name, err)
			}
		case !errors.As(err, &violation) || violation.Rule != c.rule:
			t.Errorf("%s: %v, want %q", c.name, err, c.rule)
		}
	}
	for end := time.Now().Add(time.Minute); descriptors(t) > before+len(cases); { // the listeners are closed at the end
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before", descriptors(t), before)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestClocksAreComparedByAReadingBetweenTwoOthers(t *testing.T) {
	const hour = int64(time.Hour)
	for name, c := range map[string]struct {
		before, server, after, ahead int64
	}{
		"not said":                          {5 * hour, 0, 5*hour + 10, 0},
		"between the two":                   {5 * hour, 5*hour + 7, 5*hour + 10, 0},
		"as early as can be":                {5 * hour, 5 * hour, 5*hour + 10, 0},
		"as late as can be":                 {5 * hour, 5*hour + 10, 5*hour + 10, 0},
		"an hour ahead":                     {5 * hour, 6*hour + 4, 5*hour + 10, hour - 1},
		"an hour behind":                    {5 * hour, 4*hour + 6, 5*hour + 10, -hour + 1},
		"a second behind a slow handshake":  {5 * hour, 5*hour - int64(time.Second), 6 * hour, -int64(time.Second) - hour/2},
		"within a slow handshake":           {5 * hour, 5*hour + 1, 6 * hour, 0},
		"as far ahead as numbers go":        {1, math.MaxInt64, 3, math.MaxInt64 - 2},
		"a reading of ours that is not yet": {5 * hour, 1, 5 * hour, 1 - 5*hour},
	} {
		if got := clockAhead(c.before, uint64(c.server), c.after); got != c.ahead {
			t.Errorf("%s: %d, want %d", name, got, c.ahead)
		}
	}
}

func TestARefusalSaysWhatTheServerSaid(t *testing.T) {
	path := serve(t, send([]byte{
		'S', 'T', 'B', '1', 3, 0, 0, 0, 8 + 5, 0, 0, 0, 0, 0, 0, 0, // frame: kind refusal, 13 bytes
		1, 0, 0, 0, // reason: version
		200, 0, 0, 0, // message_bytes: more than there are
		'm', 'a', 'j', 'o', 'r',
	}, 0))
	_, _, _, err := Dial(context.Background(), path, peer.Trust{}, request)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != layout.ReasonVersion || refused.Message != "major" {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), "refused: major") || errors.Is(err, fault.Draining) || errors.Is(err, fault.NoSuchModel) {
		t.Error(err)
	}
}

func TestADrainingServersRefusalIsErrDraining(t *testing.T) {
	path := serve(t, send([]byte{'S', 'T', 'B', '1', 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0}, 0))
	_, _, _, err := Dial(context.Background(), path, peer.Trust{}, request)
	if !errors.Is(err, fault.Draining) || !strings.Contains(err.Error(), "refused: draining") {
		t.Error(err)
	}
}

func TestAModelThatThereIsNotIsErrNoSuchModel(t *testing.T) {
	path := serve(t, send([]byte{'S', 'T', 'B', '1', 3, 0, 0, 0, 8 + 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 'i', 'r', 'i', 's'}, 0))
	_, _, _, err := Dial(context.Background(), path, peer.Trust{}, request)
	if !errors.Is(err, fault.NoSuchModel) || errors.Is(err, fault.Draining) || !strings.Contains(err.Error(), "refused: iris") {
		t.Error(err)
	}
}

func TestDiallingEndsWithItsContext(t *testing.T) {
	hold := make(chan struct{})
	path := serve(t, func(*net.UnixConn) { <-hold })
	defer close(hold)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, _, _, err := Dial(ctx, path, peer.Trust{}, request); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, _, err := Dial(gone, path, peer.Trust{}, request); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNoServerSaysWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	_, _, _, err := Dial(context.Background(), path, peer.Trust{}, request)
	if err == nil || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "connect to shm-server at "+path+": ") ||
		!strings.Contains(err.Error(), "is `shm-server serve` running?") {
		t.Error(err)
	}
	if strings.Count(err.Error(), path) != 1 {
		t.Errorf("the path stands in it more than once: %v", err)
	}
}
