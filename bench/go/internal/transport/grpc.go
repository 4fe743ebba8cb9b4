package transport

import (
	"context"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The methods of bench/grpc_peer.py. The messages are protobuf's own wrappers, so that no code is generated.
const (
	echoMethod     = "/bench.Model/Echo"
	classifyMethod = "/bench.Model/Classify"

	maxMessage = 17 << 20 // a row of 16 MiB, and what is around it
)

type grpcTransport struct{ connection *grpc.ClientConn }

// dialGRPC is as the guides say: one connection for all callers, which HTTP/2 interleaves; on one machine over a Unix
// socket and without TLS.
func dialGRPC(ctx context.Context, address string) (Transport, error) {
	path, err := filepath.Abs(address)
	if err != nil {
		return nil, fmt.Errorf("dial grpc: %w", err)
	}
	connection, err := grpc.NewClient(
		"unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), // 4 MiB otherwise
	)
	if err != nil {
		return nil, fmt.Errorf("dial grpc: %w", err)
	}
	t := grpcTransport{connection}
	if _, err := t.Echo(ctx, nil); err != nil { // NewClient connects with the first call only
		connection.Close()
		return nil, fmt.Errorf("dial grpc: %w", err)
	}
	return t, nil
}

func (t grpcTransport) Echo(ctx context.Context, payload []byte) (Echoed, error) {
	var reply wrapperspb.BytesValue
	if err := t.connection.Invoke(ctx, echoMethod, wrapperspb.Bytes(payload), &reply); err != nil {
		return Echoed{}, err
	}
	return Echoed{Bytes: reply.GetValue()}, nil
}

func (t grpcTransport) Classify(ctx context.Context, pixels []byte) (Classified, error) {
	var reply wrapperspb.StringValue
	if err := t.connection.Invoke(ctx, classifyMethod, wrapperspb.Bytes(pixels), &reply); err != nil {
		return Classified{}, err
	}
	return Classified{Label: reply.GetValue()}, nil
}

func (t grpcTransport) Stats() map[string]uint64 { return nil }

func (t grpcTransport) Close() error { return t.connection.Close() }
