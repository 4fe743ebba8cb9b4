package httpjson_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	shm "go-shm-client"
	"go-shm-client/httpjson"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// server is what shm-server answers, written anew; connections counts those that it accepted.
type server struct {
	*httptest.Server
	connections atomic.Int64
}

func start(t *testing.T, override http.HandlerFunc) *server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"status": "ok", "model": "fake", "classes": ["dark", "bright"]}`)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Prompt *string }
		if json.NewDecoder(r.Body).Decode(&request) != nil || request.Prompt == nil || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"echo_prompt": *request.Prompt})
	})
	mux.HandleFunc("POST /classify", func(w http.ResponseWriter, r *http.Request) {
		pixels, err := io.ReadAll(r.Body)
		if err != nil || len(pixels) != 3072 || r.Header.Get("Content-Type") != "application/octet-stream" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		label := "dark"
		if pixels[0] > 127 {
			label = "bright"
		}
		fmt.Fprintf(w, `{"label": %q, "score": 0.75, "scores": {"dark": 0.25, "bright": 0.75}}`, label)
	})
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if override != nil && r.URL.Path != "/healthz" {
			override(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func dial(t *testing.T, url string) *httpjson.Client {
	t.Helper()
	client, err := httpjson.Dial(soon(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func gray(level byte) []byte { return bytes.Repeat([]byte{level}, shm.PixelBytes) }

func TestAnEchoReturnsThePayloadWhateverItsBytes(t *testing.T) {
	client := dial(t, start(t, nil).URL+"/")
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, payload := range [][]byte{nil, {0}, every, gray(255), make([]byte, 100_000)} {
		if echo, err := client.Echo(soon(t), payload); err != nil || !bytes.Equal(echo, payload) {
			t.Errorf("%d bytes: %d came back, %v", len(payload), len(echo), err)
		}
	}
}

func TestAServerOfWhichAPartIsGoneIsDialledForTheRest(t *testing.T) {
	body := `{"status": "degraded", "model": "fake", "parts": {"classifier": "up", "generator": "down"}}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	dial(t, server.URL)
	body = `{"error": "starting"}`
	if _, err := httpjson.Dial(soon(t), server.URL); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("an unavailable server was dialled: %v", err)
	}
}

func TestAPictureIsAnsweredWithLabelAndScores(t *testing.T) {
	client := dial(t, start(t, nil).URL)
	result, err := client.Classify(soon(t), gray(255))
	if err != nil || result.Label != "bright" || result.Score != 0.75 || len(result.Scores) != 2 || result.Scores["dark"] != 0.25 {
		t.Errorf("%+v, %v", result, err)
	}
	for _, size := range []int{0, 3071, 3073} {
		if _, err := client.Classify(soon(t), make([]byte, size)); !errors.Is(err, shm.ErrPixelCount) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestOneCallerKeepsItsConnectionAndManyKeepTheirs(t *testing.T) {
	server := start(t, nil)
	client := dial(t, server.URL)
	for range 50 {
		if _, err := client.Echo(soon(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	// On a loaded machine net/http gives a connection up whose write it has not seen end within 50 ms.
	if n := server.connections.Load(); n > 10 {
		t.Errorf("%d connections for 50 calls of one caller", n)
	}
	for range 3 {
		var all sync.WaitGroup
		for range 100 {
			all.Add(1)
			go func() {
				defer all.Done()
				if result, err := client.Classify(soon(t), gray(0)); err != nil || result.Label != "dark" {
					t.Errorf("%+v, %v", result, err)
				}
			}()
		}
		all.Wait()
	}
	// The transport may dial for a call that another's connection then serves, so a few more than callers are fair.
	if n := server.connections.Load(); n > 200 {
		t.Errorf("%d connections for three times 100 callers: they are not kept", n)
	}
}

func TestAnErrorStatusIsATypedErrorWithTheServersMessage(t *testing.T) {
	for _, c := range []struct {
		code    int
		body    string
		message string
		model   bool
	}{
		{500, `{"error": "ValueError: a black picture"}`, "ValueError: a black picture", true},
		{503, `{"error": "no model"}`, "no model", false},
		{400, `{"error": "no picture"}`, "no picture", false},
		{502, `<html>a proxy</html>`, "<html>a proxy</html>", false},
		{404, ``, "", false},
	} {
		client := dial(t, start(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
		}).URL)
		_, err := client.Classify(soon(t), gray(0))
		var status *httpjson.StatusError
		if !errors.As(err, &status) || status.Code != c.code || status.Message != c.message {
			t.Errorf("%d: %v", c.code, err)
		}
		if errors.Is(err, shm.ErrModel) != c.model {
			t.Errorf("%d: is %v the model's doing?", c.code, err)
		}
		if wrong := c.code == 400 || c.code == 404; errors.Is(err, shm.ErrNotRun) != wrong {
			t.Errorf("%d: may it have run? %v", c.code, err)
		}
	}
}

func TestAnAnswerThatIsNoJSONIsAProtocolError(t *testing.T) {
	client := dial(t, start(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }).URL)
	if _, err := client.Classify(soon(t), gray(0)); !errors.Is(err, shm.ErrProtocol) {
		t.Errorf("%v", err)
	}
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrProtocol) {
		t.Errorf("%v", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	hang := make(chan struct{})
	server := start(t, func(http.ResponseWriter, *http.Request) { <-hang })
	defer close(hang)
	client := dial(t, server.URL)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Echo(ctx, nil); !errors.Is(err, shm.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := client.Classify(ctx, gray(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancel: %v", err)
	}
}

func TestCloseFailsTheCallsInFlight(t *testing.T) {
	hang, arrived := make(chan struct{}), make(chan struct{})
	server := start(t, func(http.ResponseWriter, *http.Request) { close(arrived); <-hang })
	defer close(hang)
	client := dial(t, server.URL)
	failed := make(chan error)
	go func() {
		_, err := client.Echo(soon(t), nil)
		failed <- err
	}()
	<-arrived
	client.Close()
	client.Close()
	if err := <-failed; !errors.Is(err, shm.ErrClosed) || errors.Is(err, shm.ErrNotRun) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrClosed) || !errors.Is(err, shm.ErrNotRun) {
		t.Errorf("after close: %v", err)
	}
}

func TestAServerThatIsGoneIsSaidToBe(t *testing.T) {
	server := start(t, func(w http.ResponseWriter, r *http.Request) {
		socket, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(socket, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
		socket.Close()
	})
	client := dial(t, server.URL)
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrServerGone) || errors.Is(err, shm.ErrNotRun) {
		t.Errorf("within an answer: %v", err)
	}
	server.Close()
	if _, err := client.Echo(soon(t), nil); !errors.Is(err, shm.ErrServerGone) || !errors.Is(err, shm.ErrNotRun) {
		t.Errorf("before one: %v", err)
	}
	if _, err := httpjson.Dial(soon(t), server.URL); !errors.Is(err, shm.ErrServerGone) {
		t.Errorf("dial: %v", err)
	}
}

func TestDialChecksWhoAnswers(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	var status *httpjson.StatusError
	if _, err := httpjson.Dial(soon(t), other.URL); !errors.As(err, &status) || status.Code != 404 {
		t.Errorf("%v", err)
	}
	if _, err := httpjson.Dial(soon(t), "http://[bad"); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("%v", err)
	}
}

func BenchmarkEcho(b *testing.B) {
	url := os.Getenv("SHM_TEST_HTTP")
	if url == "" {
		b.Skip("SHM_TEST_HTTP names no server")
	}
	client, err := httpjson.Dial(context.Background(), url)
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
