package transport

import (
	"context"
	"iter"
	"time"

	shm "go-shm-client"

	"sidecar-bench/internal/payload"
)

type shmTransport struct{ client *shm.Client }

func dialSHM(ctx context.Context, address string, spin time.Duration, slots int) (Transport, error) {
	if spin == 0 {
		spin = shm.NoSpin
	}
	client, err := shm.NewClient(address, shm.Options{Spin: spin, Models: map[string]shm.ModelOptions{"": {Slots: slots}}})
	if err != nil {
		return nil, err
	}
	return shmTransport{client}, client.WaitReady(ctx)
}

// Echo has the payload copied into a slot; the server reads it there, and nothing has to be sent back but its checksum.
func (t shmTransport) Echo(ctx context.Context, payload []byte) (Echoed, error) {
	result, err := t.client.Echo(ctx, payload)
	return Echoed{Checksum: result.Checksum}, err
}

func (t shmTransport) Classify(ctx context.Context, pixels []byte) (Classified, error) {
	result, err := t.client.Classify(ctx, pixels)
	return Classified{Label: result.Label, Batch: result.Batch}, err
}

// Call is a call without a copy: the row is made where the model reads it, x, and looked at where the model wrote it, y.
func (t shmTransport) Call(ctx context.Context, model string, row []byte) (r Returned, err error) {
	m, err := t.client.Model(ctx, model)
	if err != nil {
		return r, err
	}
	if r.Slot, err = m.Reserve(ctx); err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			r.Slot.Release()
		}
	}()
	x, err := shm.View[uint8](r.Slot, "x")
	if err != nil {
		return r, err
	}
	if row != nil {
		began := time.Now()
		copy(x, row)
		r.Filling = time.Since(began)
	}
	if err = r.Slot.Run(ctx); err == nil {
		r.Bytes, err = shm.View[uint8](r.Slot, "y")
	}
	return r, err
}

func (t shmTransport) EchoPrompt(ctx context.Context, text string) (Echoed, error) {
	echo, err := t.client.EchoPrompt(ctx, text)
	return Echoed{Text: echo}, err
}

func (t shmTransport) Stream(ctx context.Context, prompt *payload.Prompt) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for piece, err := range t.client.Stream(ctx, prompt.Text, shm.PromptOptions{SamplingSteps: prompt.Steps, Seed: &prompt.Seed}) {
			if piece.Reply != nil && err == nil || !yield(piece.Text, err) {
				return
			}
		}
	}
}

func (t shmTransport) Stats() map[string]uint64 {
	s := t.client.Stats()
	return map[string]uint64{
		"requests":         s.Requests,
		"spin_hits":        s.SpinHits,
		"parks":            s.Parks,
		"bells_sent":       s.BellsSent,
		"bells_suppressed": s.BellsSuppressed,
		"bells_received":   s.BellsReceived,
		"reconnects":       s.Reconnects,
	}
}

func (t shmTransport) Close() error { return t.client.Close() }
