package transport

import (
	"context"

	"go-shm-client/httpjson"
)

type httpTransport struct{ client *httpjson.Client }

func dialHTTP(ctx context.Context, address string) (Transport, error) {
	client, err := httpjson.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return httpTransport{client}, nil
}

// Echo has the payload sent as base64 text: JSON carries no bytes, and that is a part of what it costs.
func (t httpTransport) Echo(ctx context.Context, payload []byte) (Echoed, error) {
	echo, err := t.client.Echo(ctx, payload)
	return Echoed{Bytes: echo}, err
}

func (t httpTransport) Classify(ctx context.Context, pixels []byte) (Classified, error) {
	result, err := t.client.Classify(ctx, pixels)
	return Classified{Label: result.Label}, err
}

func (t httpTransport) Stats() map[string]uint64 { return nil }

func (t httpTransport) Close() error { return t.client.Close() }
