package uds_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	shm "go-shm-client"
	"go-shm-client/uds"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, path string, opts ...uds.Options) *uds.Client {
	t.Helper()
	client, err := uds.Dial(soon(t), path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func gray(level byte) []byte { return bytes.Repeat([]byte{level}, shm.PixelBytes) }

func echoes(t *testing.T, client *uds.Client) {
	t.Helper()
	if echo, err := client.Echo(soon(t), []byte("still there")); err != nil || string(echo) != "still there" {
		t.Fatalf("%q, %v", echo, err)
	}
}

func TestAnEchoReturnsThePayloadWhateverItsSize(t *testing.T) {
	client := dial(t, start(t, "", nil).path)
	for _, size := range []int{0, 1, 3071, 3072, 3073, 100_000, uds.MaxPayload} {
		payload := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size)}).Read(payload)
		if echo, err := client.Echo(soon(t), payload); err != nil || !bytes.Equal(echo, payload) {
			t.Errorf("%d bytes: %d came back, %v", size, len(echo), err)
		}
	}
	if _, err := client.Echo(soon(t), make([]byte, uds.MaxPayload+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("one byte too many: %v", err)
	}
}

func TestAPictureIsAnsweredWithItsLabel(t *testing.T) {
	client := dial(t, start(t, "", nil).path)
	for level, want := range map[byte]string{255: "bright", 0: "dunkelgrün"} {
		if label, err := client.Classify(soon(t), gray(level)); err != nil || label != want {
			t.Errorf("%q, %v", label, err)
		}
	}
	for _, size := range []int{0, 3071, 3073} {
		if _, err := client.Classify(soon(t), make([]byte, size)); !errors.Is(err, shm.ErrPixelCount) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestAnAnswerMayArriveByteByByte(t *testing.T) {
	server := start(t, "", func(socket net.Conn, packet []byte) bool {
		for i := range packet {
			socket.Write(packet[i : i+1])
		}
		return true
	})
	echoes(t, dial(t, server.path))
}

func TestManyGoroutinesShareAFewConnectionsAndEachGetsItsOwnAnswer(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	server := start(t, "", nil)
	client := dial(t, server.path, uds.Options{Connections: 5})
	var all sync.WaitGroup
	for g := range 64 {
		all.Add(1)
		go func() {
			defer all.Done()
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 50 {
				payload := make([]byte, random.IntN(8000))
				for i := range payload {
					payload[i] = byte(random.Uint32())
				}
				if echo, err := client.Echo(soon(t), payload); err != nil || !bytes.Equal(echo, payload) {
					t.Errorf("goroutine %d: another's echo, or %v", g, err)
				}
				want := map[bool]string{false: "dunkelgrün", true: "bright"}[g%2 == 0]
				if label, err := client.Classify(soon(t), gray(byte(255*(1-g%2)))); err != nil || label != want {
					t.Errorf("goroutine %d: %q, %v", g, label, err)
				}
			}
		}()
	}
	all.Wait()
	if _, accepted := server.connections(); accepted > 5 {
		t.Errorf("%d connections, 5 allowed", accepted)
	}
}

func TestOneCallerUsesOneConnection(t *testing.T) {
	server := start(t, "", nil)
	client := dial(t, server.path)
	for range 100 {
		echoes(t, client)
	}
	if _, accepted := server.connections(); accepted != 1 {
		t.Errorf("%d connections", accepted)
	}
}

// silent never answers what begins with "?".
func silent(socket net.Conn, packet []byte) bool {
	return len(packet) > 5 && packet[5] == '?' || correct(socket, packet)
}

// manual is a context that a test ends when it likes.
type manual struct {
	context.Context
	done chan struct{}
	why  error
}

func newManual(t *testing.T) *manual { return &manual{Context: t.Context(), done: make(chan struct{})} }

func (m *manual) end(why error) { m.why = why; close(m.done) }

func (m *manual) Done() <-chan struct{} { return m.done }

func (m *manual) Err() error {
	select {
	case <-m.done:
		return m.why
	default:
		return nil
	}
}

func TestACallEndsWithItsContextAndItsConnectionIsNotUsedAgain(t *testing.T) {
	server := start(t, "", silent)
	client := dial(t, server.path, uds.Options{Connections: 1})

	packets := 0
	for _, why := range []error{context.DeadlineExceeded, context.Canceled} {
		ctx := newManual(t)
		returned := make(chan error)
		go func() {
			_, err := client.Echo(ctx, []byte("?"))
			returned <- err
		}()
		server.waitForPackets(t, packets+1) // it is in flight
		ctx.end(why)
		if err := <-returned; !errors.Is(err, why) || errors.Is(err, shm.ErrNotRun) || errors.Is(err, shm.ErrDeadlineExceeded) != (why == context.DeadlineExceeded) {
			t.Errorf("%v: %v", why, err)
		}
		echoes(t, client)
		packets += 2
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := client.Echo(ended, []byte("!")); !errors.Is(err, context.Canceled) || !errors.Is(err, shm.ErrNotRun) {
		t.Errorf("ended before: %v", err)
	}
	if _, accepted := server.connections(); accepted != 3 {
		t.Errorf("%d connections: two calls ended on theirs", accepted)
	}
}

func TestAWaitForAConnectionEndsWithTheContext(t *testing.T) {
	server := start(t, "", silent)
	client := dial(t, server.path, uds.Options{Connections: 1})
	busy, release := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := client.Echo(busy, []byte("?"))
		done <- err
	}()
	server.waitForPackets(t, 1) // the connection is in use now
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Echo(ctx, nil); !errors.Is(err, shm.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	release()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	echoes(t, client)
}

func TestAContextThatEndsAtAnyMomentNeverMixesAnswersUp(t *testing.T) {
	server := start(t, "", nil)
	client := dial(t, server.path, uds.Options{Connections: 2})
	var ended, answered atomic.Int64
	var all sync.WaitGroup
	for g := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Microsecond)
				payload := bytes.Repeat([]byte{byte(g), byte(i)}, 1500)
				echo, err := client.Echo(ctx, payload)
				cancel()
				switch {
				case err == nil && bytes.Equal(echo, payload):
					answered.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					ended.Add(1)
				default:
					t.Errorf("%d bytes, %v", len(echo), err)
				}
			}
		}()
	}
	all.Wait()
	t.Logf("%d answered, %d ended", answered.Load(), ended.Load())
	echoes(t, client)
}

func TestAServerThatBreaksTheProtocolIsDroppedAndItsConnectionToo(t *testing.T) {
	broken := map[string][]byte{
		"length 0":           {0, 0, 0, 0, 0},
		"length 2^32 - 1":    {0xff, 0xff, 0xff, 0xff, 0},
		"a byte too large":   {0, 0x10, 0, 1, 0},
		"another type":       reply(1, "label"),
		"an unknown type":    reply(7, ""),
		"two packets at one": append(reply(0, "x"), reply(0, "y")...),
	}
	for name, sent := range broken {
		t.Run(name, func(t *testing.T) {
			server := start(t, "", func(socket net.Conn, packet []byte) bool {
				if packet[5] == '!' {
					packet = sent
				}
				_, err := socket.Write(packet)
				return err == nil
			})
			client := dial(t, server.path)
			echoes(t, client)
			if _, err := client.Echo(soon(t), []byte("!")); !errors.Is(err, shm.ErrProtocol) {
				t.Errorf("%v", err)
			}
			echoes(t, client)
			if _, accepted := server.connections(); accepted != 2 {
				t.Errorf("%d connections", accepted)
			}
		})
	}
}

func TestAServerThatHangsUpWithinAnAnswerIsGoneWhateverByteWasTheLast(t *testing.T) {
	whole := reply(0, "12345678")
	for sent := range whole {
		server := start(t, "", func(socket net.Conn, packet []byte) bool {
			if string(packet[5:]) != "12345678" {
				return correct(socket, packet)
			}
			socket.Write(whole[:sent])
			return false
		})
		client := dial(t, server.path)
		_, err := client.Echo(soon(t), whole[5:])
		if !errors.Is(err, shm.ErrServerGone) || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v", sent, err)
		}
		echoes(t, client)
	}
}

func TestAClientOutlivesItsServer(t *testing.T) {
	server := start(t, "", nil)
	client := dial(t, server.path)
	var all sync.WaitGroup // open a few connections
	for range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range 20 {
				client.Echo(soon(t), gray(1))
			}
		}()
	}
	all.Wait()
	server.stop()
	for range 2 {
		if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrServerGone) {
			t.Errorf("without a server: %v", err)
		}
	}
	start(t, server.path, nil)
	echoes(t, client) // at the first try: the old connections are gone
}

func TestDialingNobodySaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	if _, err := uds.Dial(soon(t), path); !errors.Is(err, shm.ErrServerGone) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := uds.Dial(ended, path); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCloseFailsTheCallsInFlightAndClosesEveryConnection(t *testing.T) {
	server := start(t, "", silent)
	client := dial(t, server.path, uds.Options{Connections: 2})
	failed := make(chan error)
	for range 4 { // two in flight, two waiting for a connection
		go func() {
			_, err := client.Echo(soon(t), []byte("?"))
			failed <- err
		}()
	}
	server.waitForPackets(t, 2)
	client.Close()
	client.Close()
	for range 4 {
		if err := <-failed; !errors.Is(err, shm.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	if _, err := client.Classify(soon(t), gray(0)); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	eventually(t, func() bool { open, _ := server.connections(); return open == 0 })
}

func BenchmarkEcho(b *testing.B) {
	path := os.Getenv("SHM_TEST_UDS")
	if path == "" {
		b.Skip("SHM_TEST_UDS names no server")
	}
	client, err := uds.Dial(context.Background(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	payload := gray(3)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Echo(b.Context(), payload); err != nil {
			b.Fatal(err)
		}
	}
}
