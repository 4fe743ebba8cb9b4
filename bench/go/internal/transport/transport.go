// Package transport makes the contestants alike: one method an operation, and what its answer has to be checked by.
//
//	contestant, err := transport.Dial(ctx, "shm", "/tmp/shm-server.sock", shm.SpinForever)
//	reply, err := contestant.Echo(ctx, bytes)
package transport

import (
	"context"
	"fmt"
	"iter"
	"time"

	shm "go-shm-client"

	"sidecar-bench/internal/payload"
)

// Transport is a client of one process, shared by all of its callers.
type Transport interface {
	Echo(ctx context.Context, payload []byte) (Echoed, error)
	Classify(ctx context.Context, pixels []byte) (Classified, error)
	// Stats are the client's own counters, where it has some.
	Stats() map[string]uint64
	Close() error
}

// Echoed is what came back: all the bytes, or what the server computed over all of them where they did not move.
type Echoed struct {
	Bytes    []byte
	Checksum uint64 // where Bytes is nil
	Text     string // of EchoPrompt
}

// Classified is the model's answer.
type Classified struct {
	Label string
	Batch int // how many pictures the model ran together with this one; 0 where the transport does not say
}

// Prompter is a transport that has a lane for text.
type Prompter interface {
	// EchoPrompt sends text the way that prompts go, all of it but the model.
	EchoPrompt(ctx context.Context, text string) (Echoed, error)
	Stream(ctx context.Context, prompt *payload.Prompt) iter.Seq2[string, error]
}

// Caller is a transport that calls models of any tensors.
type Caller interface {
	// Call has the model of that name give back a row of bytes. A row of nil is neither written nor looked at.
	Call(ctx context.Context, model string, row []byte) (Returned, error)
}

// Returned is the row that came back, where the model wrote it: until Slot is released, which the caller does.
type Returned struct {
	Bytes   []byte
	Slot    shm.Slot
	Filling time.Duration // what it took to put the row where the model reads it
}

// Dial connects to a server by the transport of that name. spin is how long shm polls before it sleeps, and slots how many
// calls it has in flight at a time, 0 for the server's default.
func Dial(ctx context.Context, name, address string, spin time.Duration, slots int) (Transport, error) {
	switch name {
	case "shm":
		return dialSHM(ctx, address, spin, slots)
	case "packets":
		return dialPackets(ctx, address)
	case "grpc":
		return dialGRPC(ctx, address)
	case "uds":
		return dialUDS(ctx, address)
	case "http":
		return dialHTTP(ctx, address)
	}
	return nil, fmt.Errorf("no transport %q: there are shm, uds, http, grpc and packets", name)
}
