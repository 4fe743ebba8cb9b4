//go:build linux

package shm

import (
	"context"
	"errors"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
)

func TestALeaseIsFilledAndCalledSeveralTimes(t *testing.T) {
	client := dialFake(t, startFake(t, 2))
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if pixels := slot.Pixels(); len(pixels) != PixelBytes || cap(pixels) != PixelBytes {
		t.Errorf("len %d, cap %d", len(pixels), cap(pixels))
	}
	for _, value := range []byte{10, 200, 30} {
		copy(slot.Pixels(), gray(value))
		result, err := slot.Classify(soon(t), WithScores(nil))
		if err != nil || (result.Label == "bright") != (value > 127) || len(result.Scores) != 2 {
			t.Errorf("%+v, %v", result, err)
		}
		if echo, err := slot.Echo(soon(t)); err != nil || echo.Checksum != fakeserver.Checksum(gray(value)) {
			t.Errorf("%+v, %v", echo, err)
		}
	}
	slot.Release()
}

func TestASlotWhoseLeaseIsOverGetsNowhere(t *testing.T) {
	client := dialFake(t, startFake(t, 1))
	old, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	copied := old
	old.Release()
	old.Release() // does nothing
	copied.Release()
	current, err := client.TryReserveImage(soon(t)) // the same memory, the next lease
	if err != nil {
		t.Fatal(err)
	}
	for name, slot := range map[string]Slot{"released": old, "its copy": copied, "zero": {}} {
		if slot.Pixels() != nil {
			t.Errorf("%s: has pixels", name)
		}
		if _, err := slot.Classify(soon(t)); !errors.Is(err, ErrSlotReleased) {
			t.Errorf("%s: Classify: %v", name, err)
		}
		if _, err := slot.Echo(soon(t)); !errors.Is(err, ErrSlotReleased) {
			t.Errorf("%s: Echo: %v", name, err)
		}
		slot.Release()
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, ErrRingFull) {
		t.Errorf("an old lease released the new one: %v", err)
	}
	if _, err := current.Classify(soon(t)); err != nil {
		t.Errorf("the current lease: %v", err)
	}
	current.Release()
}

func TestACancelledCallEndsTheLeaseAndQuarantinesTheSlot(t *testing.T) {
	f := startFake(t, 1)
	client := dialFake(t, f)
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	f.paused.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	call := inFlight(t, f, func() error { _, err := slot.Classify(ctx); return err })
	if slot.Pixels() != nil {
		t.Error("pixels can be had while the server reads them")
	}
	if _, err := slot.Echo(soon(t)); !errors.Is(err, ErrSlotBusy) {
		t.Errorf("a second call at the same time: %v", err)
	}
	cancel()
	if err := <-call; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if slot.Pixels() != nil {
		t.Error("pixels can be had after the lease")
	}
	if _, err := slot.Classify(soon(t)); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("a call after the lease: %v", err)
	}
	slot.Release() // as every caller does
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, ErrRingFull) {
		t.Errorf("the slot is not quarantined: %v", err)
	}
	f.paused.Store(false)
	if next, err := client.ReserveImage(soon(t)); err != nil {
		t.Error(err)
	} else {
		next.Release()
	}
}

func TestReleasingDuringACallReleasesWhenItReturns(t *testing.T) {
	f := startFake(t, 1)
	client := dialFake(t, f)
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	f.paused.Store(true)
	call := inFlight(t, f, func() error { _, err := slot.Classify(soon(t)); return err })
	slot.Release()
	if _, err := slot.Echo(soon(t)); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("a call after Release: %v", err)
	}
	if _, err := client.TryReserveImage(soon(t)); !errors.Is(err, ErrRingFull) {
		t.Errorf("released under the call: %v", err)
	}
	f.paused.Store(false)
	if err := <-call; err != nil {
		t.Error(err)
	}
	if next, err := client.TryReserveImage(soon(t)); err != nil {
		t.Errorf("not released: %v", err)
	} else {
		next.Release()
	}
}

func TestALeaseOutlivesItsServer(t *testing.T) {
	f := startFake(t, 2)
	client := dialFake(t, f)
	before := mappings(t)
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	f.Last().Kill()
	eventually(t, "the client has noticed", func() bool { return client.Stats().Reconnects > 0 })
	for range 100 {
		copy(slot.Pixels(), gray(99)) // of the old mapping, which nobody else uses
	}
	if _, err := slot.Classify(soon(t)); !errors.Is(err, ErrServerGone) {
		t.Errorf("a call with an old lease: %v", err)
	}
	if _, err := client.Classify(soon(t), gray(1)); err != nil {
		t.Errorf("a new call: %v", err)
	}
	slot.Release()
	eventually(t, "the old mapping is gone", func() bool { return mappings(t) <= before })
}

func TestReservingEndsWithItsContext(t *testing.T) {
	client := dialFake(t, startFake(t, 1))
	slot, err := client.ReserveImage(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Release()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := client.ReserveImage(ctx); !errors.Is(err, ErrDeadlineExceeded) {
		t.Error(err)
	}
}
