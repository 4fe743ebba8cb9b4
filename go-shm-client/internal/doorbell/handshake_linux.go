package doorbell

import (
	"context"
	"encoding/json"
	"math"
	"net"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
	"go-shm-client/internal/peer"
)

// A Welcome is the server's yes, checked as far as the message alone can be.
type Welcome struct {
	layout.Welcome
	Metadata   Metadata
	ClockAhead int64 // the server's clock less ours, in ns: 0 unless it lives in another time namespace
}

// Dial connects to the server at path, if it is one to trust, and asks for a lane. The descriptor is the segment's; it belongs
// to the caller.
func Dial(ctx context.Context, path string, trust peer.Trust, request Request) (*Doorbell, Welcome, int, error) {
	welcome, fd := Welcome{}, -1
	conn, err := connect(ctx, path, trust, "handshake with", func(ctx context.Context, conn *net.UnixConn) (err error) {
		before := machine.Now()
		welcome, fd, err = shake(ctx, conn, request)
		welcome.ClockAhead = clockAhead(before, welcome.Clock, machine.Now())
		return err
	})
	if err != nil {
		return nil, Welcome{}, -1, err
	}
	bell, err := newDoorbell(conn)
	if err != nil {
		conn.Close()
		syscall.Close(fd)
		return nil, Welcome{}, -1, err
	}
	return bell, welcome, fd, nil
}

func shake(ctx context.Context, conn *net.UnixConn, request Request) (Welcome, int, error) {
	rights := rightsReader{conn: conn}
	defer rights.closeAll()
	body, err := exchange(ctx, conn, encodeFrame(layout.FrameKindHello, encodeHello(request)), &rights, layout.FrameKindWelcome)
	if err != nil {
		return Welcome{}, -1, err
	}
	welcome, err := decodeWelcome(body)
	if err != nil {
		return Welcome{}, -1, err
	}
	fd, err := rights.take()
	return welcome, fd, err
}

// clockAhead compares the server's clock, which it read between two readings of ours; layout.md, "Welcome".
func clockAhead(before int64, server uint64, after int64) int64 {
	const slack = int64(time.Millisecond) // our reading is the kernel's to some microseconds
	read := int64(server)
	if read == 0 || read >= before-slack && read <= after+slack {
		return 0
	}
	return read - (before + (after-before)/2)
}

func encodeHello(r Request) []byte {
	body := make([]byte, layout.HelloBytes+len(r.Model))
	layout.Hello{
		LayoutMajor:  layout.LayoutMajor,
		LayoutMinor:  layout.LayoutMinor,
		Protocol:     r.Protocol,
		SlotCount:    r.Slots,
		InputExtent:  r.InputExtent,
		OutputExtent: r.OutputExtent,
		ModelBytes:   uint32(len(r.Model)),
	}.Encode(body)
	copy(body[layout.HelloBytes:], r.Model)
	return body
}

func decodeWelcome(body []byte) (Welcome, error) {
	if len(body) < layout.WelcomeBytes {
		return Welcome{}, fault.Violated("frame", "welcome of %d bytes, not %d", len(body), layout.WelcomeBytes)
	}
	w := Welcome{Welcome: layout.DecodeWelcome(body)}
	metadata := body[layout.WelcomeBytes:]
	switch {
	case w.LayoutMajor != layout.LayoutMajor:
		return Welcome{}, fault.Violated("version", "the server speaks layout major %d, this client %d", w.LayoutMajor, layout.LayoutMajor)
	case uint64(w.MetadataBytes) > uint64(len(metadata)):
		return Welcome{}, fault.Violated("frame", "metadata of %d bytes in a body with room for %d", w.MetadataBytes, len(metadata))
	case w.SegmentBytes < layout.HeaderBytes || w.SegmentBytes > layout.MaxSegmentBytes:
		return Welcome{}, fault.Violated("geometry", "segment of %d bytes, not %d to %d", w.SegmentBytes, layout.HeaderBytes, layout.MaxSegmentBytes)
	case w.Epoch == 0:
		return Welcome{}, fault.Violated("epoch", "epoch 0")
	case w.Clock > math.MaxInt64:
		return Welcome{}, fault.Violated("clock", "a clock that reads %d ns", w.Clock)
	}
	if err := json.Unmarshal(metadata[:w.MetadataBytes], &w.Metadata); err != nil {
		return Welcome{}, fault.Violated("frame", "metadata: %v", err)
	}
	return w, nil
}
