// Package transport lets an application change the way to its model in one line:
//
//	client, err := transport.Dial(ctx, "shm:/tmp/shm-server.sock") // or "uds:/tmp/imageserver.sock",
//	if err != nil {                                                 // or "http://127.0.0.1:20200"
//		return err
//	}
//	defer client.Close()
//	label, err := client.Classify(ctx, pixels)
//
// The address may come from a flag. What only one of the transports can do, zero-copy slots for instance, is in their
// own packages: shm (go-shm-client), uds and httpjson. Errors are those of package shm over all of them; nothing falls
// back from one transport to another by itself.
package transport

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	shm "go-shm-client"
	"go-shm-client/httpjson"
	"go-shm-client/uds"
)

// A Client calls a model, over whatever transport. It is safe for concurrent use.
type Client interface {
	// Classify returns the label of shm.PixelBytes bytes of pixels.
	Classify(ctx context.Context, pixels []byte) (label string, err error)
	// Echo sends payload through the server, all the way but the model. The error is nil if the server had exactly these
	// bytes. A payload of shm.PixelBytes bytes suits every transport.
	Echo(ctx context.Context, payload []byte) error
	// Close fails the calls in flight with shm.ErrClosed. Closing twice does nothing.
	Close() error
}

// Dial connects to a server at "shm:PATH", "uds:PATH" or "http://HOST:PORT"; "shm:", "uds:" and "http:" are the default
// addresses. ctx bounds the dialling only.
func Dial(ctx context.Context, address string) (Client, error) {
	scheme, rest, _ := strings.Cut(address, ":")
	switch scheme {
	case "shm":
		client, err := dialSHM(ctx, rest)
		return orNil(SHM(client), err)
	case "uds":
		client, err := uds.Dial(ctx, rest)
		return orNil(UDS(client), err)
	case "http":
		if rest != "" {
			rest = address
		}
		client, err := httpjson.Dial(ctx, rest)
		return orNil(HTTP(client), err)
	}
	return nil, fmt.Errorf(`no transport in address %q: "shm:PATH", "uds:PATH" or "http://HOST:PORT"`, address)
}

// dialSHM connects at once, as the other transports do.
func dialSHM(ctx context.Context, path string) (*shm.Client, error) {
	client, err := shm.NewClient(path)
	if err != nil {
		return nil, err
	}
	if _, err := client.Model(ctx, ""); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// orNil keeps a failed dial from returning a Client that is not nil.
func orNil(client Client, err error) (Client, error) {
	if err != nil {
		return nil, err
	}
	return client, nil
}

// SHM is a Client of a shared-memory client, for one that was made with options.
func SHM(client *shm.Client) Client { return overSHM{client} }

// UDS is a Client of a client of the Unix-socket protocol.
func UDS(client *uds.Client) Client { return overUDS{client} }

// HTTP is a Client of an HTTP client.
func HTTP(client *httpjson.Client) Client { return overHTTP{client} }

type overSHM struct{ *shm.Client }

func (c overSHM) Classify(ctx context.Context, pixels []byte) (string, error) {
	result, err := c.Client.Classify(ctx, pixels)
	return result.Label, err
}

func (c overSHM) Echo(ctx context.Context, payload []byte) error {
	echo, err := c.Client.Echo(ctx, payload)
	if err == nil && echo.Checksum != shm.Checksum(payload) {
		err = errChanged
	}
	return err
}

type overUDS struct{ *uds.Client } // Classify is its own

func (c overUDS) Echo(ctx context.Context, payload []byte) error {
	echo, err := c.Client.Echo(ctx, payload)
	return compare(payload, echo, err)
}

type overHTTP struct{ *httpjson.Client }

func (c overHTTP) Classify(ctx context.Context, pixels []byte) (string, error) {
	result, err := c.Client.Classify(ctx, pixels)
	return result.Label, err
}

func (c overHTTP) Echo(ctx context.Context, payload []byte) error {
	echo, err := c.Client.Echo(ctx, payload)
	return compare(payload, echo, err)
}

var errChanged = fmt.Errorf("%w: an echo differs from what was sent", shm.ErrProtocol)

// compare is the error of an echo that returned echo.
func compare(payload, echo []byte, err error) error {
	if err == nil && !bytes.Equal(echo, payload) {
		err = errChanged
	}
	return err
}
