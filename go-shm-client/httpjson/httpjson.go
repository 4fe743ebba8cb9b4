// Package httpjson calls a model through shm-server's HTTP and JSON (`shm-server serve --http`): what other languages
// and browsers use, at a few hundred microseconds a call.
//
//	client, err := httpjson.Dial(ctx, httpjson.DefaultURL)
//	defer client.Close()
//	result, err := client.Classify(ctx, pixels)
//	fmt.Println(result.Label, result.Score)
//
// Connections are kept alive and shared; a Client is safe for concurrent use. Errors are those of package shm, and
// *StatusError.
package httpjson

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
)

const (
	// DefaultURL is where `shm-server serve --http` listens unless told otherwise.
	DefaultURL = "http://127.0.0.1:20200"

	// idleConnections are kept for the next calls: as many as an application has calls at a time, or each call beyond
	// that pays for a connection. net/http keeps 2 by default.
	idleConnections = 256
	// idleTimeout is less than the server's 75 s, so that a call does not meet a connection that the server just closed.
	idleTimeout = 60 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
)

// A Result is the model's answer.
type Result struct {
	Label  string             `json:"label"`
	Score  float32            `json:"score"`  // probability of Label, 0 to 1
	Scores map[string]float32 `json:"scores"` // of every label
}

// A StatusError is an answer that is not 200.
type StatusError struct {
	Code    int
	Message string // what the server says
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("shm-server answered %d %s: %s", e.Code, http.StatusText(e.Code), e.Message)
}

// Is makes a 500 an ErrModel, the model failed, and a request that is wrong (400, 404, 405, 413, 415) an ErrNotRun.
func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case layout.StatusHTTPCode[layout.StatusModelError]:
		return target == fault.Model
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		return target == fault.NotRun
	}
	return false
}

const (
	healthPath = "/healthz"
	degraded   = "degraded"
)

// A Client calls a server. Use Dial to get one.
type Client struct {
	url    string
	client http.Client
	life   context.Context // of the client
	end    context.CancelFunc
}

// Dial connects to the server at url; "" is DefaultURL. ctx bounds the dialling only. Close the client when it is not
// needed any more.
func Dial(ctx context.Context, url string) (*Client, error) {
	if url == "" {
		url = DefaultURL
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost: idleConnections,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // an answer fits a packet
	}
	c := &Client{url: strings.TrimSuffix(url, "/"), client: http.Client{Transport: transport}}
	c.life, c.end = context.WithCancel(context.Background())
	var health struct{ Status string }
	err := c.call(ctx, http.MethodGet, healthPath, "", nil, &health)
	if err == nil && health.Status != "ok" && health.Status != degraded {
		err = fault.Violated("health", "status %q", health.Status)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Classify classifies 3072 bytes of pixels: 1024 red, 1024 green, 1024 blue, each row by row from the top.
func (c *Client) Classify(ctx context.Context, pixels []byte) (Result, error) {
	if len(pixels) != fault.PixelBytes {
		return Result{}, fmt.Errorf("%w: got %d", fault.PixelCount, len(pixels))
	}
	var result Result
	err := c.call(ctx, http.MethodPost, "/classify", "application/octet-stream", pixels, &result)
	return result, err
}

// Echo sends payload as base64 text, since JSON carries no bytes, and returns what came back.
func (c *Client) Echo(ctx context.Context, payload []byte) ([]byte, error) {
	if payload == nil {
		payload = []byte{} // nil is null
	}
	// encoding/json writes bytes as base64, and reads them.
	request, err := json.Marshal(struct {
		Prompt []byte `json:"prompt"`
	}{payload})
	if err != nil {
		return nil, fmt.Errorf("encode echo: %w", err)
	}
	var answer struct {
		Prompt []byte `json:"echo_prompt"`
	}
	err = c.call(ctx, http.MethodPost, "/echo", "application/json", request, &answer)
	return answer.Prompt, err
}

// Close fails the calls in flight with ErrClosed and closes every connection. Closing twice does nothing.
func (c *Client) Close() error {
	c.end()
	c.client.CloseIdleConnections()
	return nil
}

// call makes one request, and decodes the JSON of its answer to answer.
func (c *Client) call(ctx context.Context, method, path, kind string, body []byte, answer any) error {
	if err := cmp.Or(c.life.Err(), ctx.Err()); err != nil {
		return fault.As(c.explain(ctx, err), fault.NotRun)
	}
	either, cancel := context.WithCancel(ctx) // of the call and of the client
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	request, err := http.NewRequestWithContext(either, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("httpjson: %w", err)
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return c.explain(ctx, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // to its end: else the connection is not kept
	if err != nil {
		return c.explain(ctx, err)
	}
	if response.StatusCode != http.StatusOK && !(path == healthPath && isDegraded(text)) {
		return statusError(response.StatusCode, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fault.Violated("JSON", "%s: %v", path, err)
	}
	return nil
}

// isDegraded tells an answer about a server of which a part is gone: status 503, for load balancers. The rest serves.
func isDegraded(text []byte) bool {
	var health struct{ Status string }
	return json.Unmarshal(text, &health) == nil && health.Status == degraded
}

func statusError(code int, text []byte) error {
	var answer struct{ Error string }
	if json.Unmarshal(text, &answer) != nil || answer.Error == "" {
		answer.Error = string(text[:min(len(text), 200)]) // of a proxy, or of no shm-server
	}
	return &StatusError{Code: code, Message: fault.Line(answer.Error)}
}

// explain says whose doing it was that a call failed.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case c.life.Err() != nil:
		return fmt.Errorf("http client: %w", fault.Closed)
	case ctx.Err() != nil:
		return fault.Context(ctx)
	}
	gone := fmt.Errorf("%w: %w", fault.ServerGone, err)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" { // nobody was there to be sent anything
		return fault.As(gone, fault.NotRun)
	}
	return gone
}
