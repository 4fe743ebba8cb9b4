package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// packets are rows of any size over a Unix socket, to bench/packet_peer.py. It has one caller.
type packets struct {
	net.Conn
	reply []byte
}

func dialPackets(ctx context.Context, address string) (Transport, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("dial packets: %w", err)
	}
	return &packets{Conn: conn}, nil
}

// Echo sends the bytes, which are copied by the kernel alone. Those that came back are valid until the next call.
func (p *packets) Echo(_ context.Context, payload []byte) (Echoed, error) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	packet := net.Buffers{head, payload}
	if _, err := packet.WriteTo(p); err != nil {
		return Echoed{}, err
	}
	if need := len(head) + len(payload); len(p.reply) != need {
		p.reply = make([]byte, need)
	}
	if _, err := io.ReadFull(p, p.reply); err != nil {
		return Echoed{}, err
	}
	if length := binary.BigEndian.Uint32(p.reply); int(length) != len(payload) {
		return Echoed{}, fmt.Errorf("packets: a packet of %d bytes answers one of %d", length, len(payload))
	}
	return Echoed{Bytes: p.reply[len(head):]}, nil
}

func (p *packets) Classify(context.Context, []byte) (Classified, error) {
	return Classified{}, fmt.Errorf("packets: classify: %w", errors.ErrUnsupported)
}

func (p *packets) Stats() map[string]uint64 { return nil }
