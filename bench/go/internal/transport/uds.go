package transport

import (
	"context"

	"go-shm-client/uds"
)

type udsTransport struct{ client *uds.Client }

// dialUDS leaves the number of connections to the client's default.
func dialUDS(ctx context.Context, address string) (Transport, error) {
	client, err := uds.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return udsTransport{client}, nil
}

func (t udsTransport) Echo(ctx context.Context, payload []byte) (Echoed, error) {
	echo, err := t.client.Echo(ctx, payload)
	return Echoed{Bytes: echo}, err
}

func (t udsTransport) Classify(ctx context.Context, pixels []byte) (Classified, error) {
	label, err := t.client.Classify(ctx, pixels)
	return Classified{Label: label}, err
}

func (t udsTransport) Stats() map[string]uint64 { return nil }

func (t udsTransport) Close() error { return t.client.Close() }
