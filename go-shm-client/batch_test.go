//go:build linux

package shm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// wide is double with rows that fill their 64 bytes.
var wide = fakeserver.Model{
	Signature: Signature{
		Name:    "wide",
		Inputs:  []Tensor{{Name: "x", Datatype: "FP32", Shape: []int{16}}},
		Outputs: []Tensor{{Name: "y", Datatype: "FP32", Shape: []int{16}}},
	},
	Answer: double.Answer, // of four of them
}

func mustReserveBatch(t testing.TB, m *Model, n int) Batch {
	t.Helper()
	batch, err := m.ReserveBatch(soon(t), n)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func mustViewBatch[T Element](t testing.TB, b Batch, name string) Rows[T] {
	t.Helper()
	rows, err := ViewBatch[T](b, name)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestABatchIsOneArrayOfEachTensorAndOneCall(t *testing.T) {
	for name, spin := range spins() {
		f := withModels(t, &double, &wide)
		client := dialFake(t, f, Options{Spin: spin})
		for _, model := range []*Model{mustModel(t, client, "double"), mustModel(t, client, "wide")} {
			for _, n := range []int{1, 3, 4, 2} {
				batch := mustReserveBatch(t, model, n)
				x := mustViewBatch[float32](t, batch, "x")
				if contiguous := x.Width == x.Stride; batch.Len() != n || x.Len() != n || x.Stride != 16 || contiguous != (model.signature.Name == "wide") || len(x.Elements) != 16*n {
					t.Fatalf("%d rows: %d of %d and %d apart", n, x.Len(), x.Width, x.Stride)
				}
				for round := range 2 {
					for i := range n {
						for j := range x.Row(i) {
							x.Row(i)[j] = float32(100*round + 10*i + j)
						}
					}
					if err := batch.Run(soon(t)); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					y := mustViewBatch[float32](t, batch, "y")
					for i := range n {
						if &y.Row(i)[0] != &y.Elements[16*i] || y.Row(i)[3] != float32(2*(100*round+10*i+3)) || batch.Slot(i).Timing().Batch != 3 {
							t.Errorf("%s: row %d: %v", name, i, y.Row(i))
						}
						if row := mustView[float32](t, batch.Slot(i), "y"); &row[0] != &y.Row(i)[0] || len(row) != y.Width {
							t.Errorf("%s: row %d has another view of its own", name, i)
						}
					}
				}
				batch.Release()
			}
		}
		client.Close()
	}
}

func TestEachRowOfABatchHasItsOwnExtent(t *testing.T) {
	client := dialFake(t, withModels(t, &encoder))
	batch := mustReserveBatch(t, mustModel(t, client, "encoder"), 3)
	defer batch.Release()
	if err := batch.SetExtent(2); err != nil {
		t.Fatal(err)
	}
	if err := batch.Slot(1).SetExtent(5); err != nil {
		t.Fatal(err)
	}
	ids, mask := mustViewBatch[int32](t, batch, "ids"), mustViewBatch[bool](t, batch, "mask")
	if ids.Width != 8 || mask.Width != 8 {
		t.Errorf("rows of %d and %d", ids.Width, mask.Width)
	}
	for i := range 3 {
		for j := range 8 {
			ids.Row(i)[j], mask.Row(i)[j] = int32(10*i+j), true
		}
	}
	if err := batch.Run(soon(t)); err != nil {
		t.Fatal(err)
	}
	for i, extent := range []int{2, 5, 2} {
		states := mustView[float64](t, batch.Slot(i), "states")
		if len(states) != 2*extent || states[2*extent-2] != float64(10*i+extent-1) {
			t.Errorf("row %d: %v", i, states)
		}
		if facts := mustView[bool](t, batch.Slot(i), "facts"); facts[0] != (extent > 2) || !facts[1] {
			t.Errorf("row %d: %v", i, facts)
		}
	}
	if err := batch.SetExtent(9); !errors.Is(err, ErrTensor) {
		t.Error(err)
	}
}

func TestABatchWaitsForNeighboursOrSaysThatThereAreNone(t *testing.T) {
	client := dialFake(t, withModels(t, &double))
	model := mustModel(t, client, "double")
	if n := model.Slots(); n != 4 {
		t.Errorf("%d slots", n)
	}
	for _, n := range []int{-1, 0, 5} {
		if _, err := model.ReserveBatch(soon(t), n); !errors.Is(err, ErrTensor) || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "expected 1 to 4") {
			t.Errorf("%d: %v", n, err)
		}
	}
	held := []Slot{mustReserve(t, model), mustReserve(t, model)}
	if batch, err := model.TryReserveBatch(2); err != nil {
		t.Errorf("two of the other two: %v", err)
	} else {
		batch.Release()
	}
	if _, err := model.TryReserveBatch(3); !errors.Is(err, ErrRingFull) {
		t.Errorf("three of two: %v", err)
	}
	if _, err := model.ReserveBatch(ended(), 3); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotRun) {
		t.Errorf("three of two, and no time: %v", err)
	}
	var batch Batch
	reserved := make(chan error)
	go func() {
		var err error
		batch, err = model.ReserveBatch(soon(t), 4)
		reserved <- err
	}()
	for _, slot := range held {
		slot.Release()
	}
	if err := <-reserved; err != nil {
		t.Fatal(err)
	}
	if _, err := model.TryReserve(); !errors.Is(err, ErrRingFull) {
		t.Errorf("a fifth of four: %v", err)
	}
	batch.Release()
	batch.Release() // does nothing
	for name, b := range map[string]Batch{"released": batch, "zero": {}} {
		if err := b.Run(soon(t)); !errors.Is(err, ErrSlotReleased) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ViewBatch[float32](b, "x"); !errors.Is(err, ErrSlotReleased) {
			t.Errorf("%s: %v", name, err)
		}
		b.Release()
	}
	if again := mustReserveBatch(t, model, 4); again.Len() != 4 {
		t.Error("slots are missing")
	}
}

func TestAWrongViewOfABatchNamesBoth(t *testing.T) {
	client := dialFake(t, withModels(t, &double))
	batch := mustReserveBatch(t, mustModel(t, client, "double"), 2)
	defer batch.Release()
	if rows, err := ViewBatch[int32](batch, "x"); rows.Len() != 0 || !errors.Is(err, ErrTensor) || !strings.Contains(err.Error(), `"x" FP32 [2 2] as []int32, expected []float32`) {
		t.Error(err)
	}
	if _, err := ViewBatch[float32](batch, "z"); !errors.Is(err, ErrTensor) || !strings.Contains(err.Error(), `no tensor "z"`) {
		t.Error(err)
	}
	if err := batch.Run(soon(t)); err != nil {
		t.Errorf("the lease was lost: %v", err)
	}
}

func TestTheErrorOfABatchIsThatOfItsFirstRowThatFailed(t *testing.T) {
	picky := double
	picky.Answer = func(s *fakeserver.Server, got layout.Submission) {
		switch elements[float32](s.Input(0, got.Slot))[0] {
		case 3:
			s.Answer(got, layout.Completion{Status: layout.StatusDeadlineExceeded})
		default:
			double.Answer(s, got)
		}
	}
	client := dialFake(t, withModels(t, &picky))
	batch := mustReserveBatch(t, mustModel(t, client, "double"), 3)
	defer batch.Release()
	for _, c := range []struct {
		rows   [3]float32
		is     error
		notRun bool
	}{
		{[3]float32{1, 13, 3}, ErrModel, false},
		{[3]float32{1, 3, 13}, ErrDeadlineExceeded, false}, // the first row was run
		{[3]float32{3, 13, 3}, ErrDeadlineExceeded, false},
		{[3]float32{3, 3, 3}, ErrDeadlineExceeded, true},
		{[3]float32{1, 1, 1}, nil, false},
	} {
		x := mustViewBatch[float32](t, batch, "x")
		for i, value := range c.rows {
			x.Row(i)[0] = value
		}
		if err := batch.Run(soon(t)); !errors.Is(err, c.is) || (err == nil) != (c.is == nil) || errors.Is(err, ErrNotRun) != c.notRun {
			t.Errorf("%v: %v", c.rows, err)
		}
	}
	x := mustViewBatch[float32](t, batch, "x")
	x.Row(0)[0], x.Row(1)[0] = 1, 13
	var failed *ModelError
	if err := batch.Run(soon(t)); !errors.As(err, &failed) || failed.Message != "thirteen is unlucky" {
		t.Error(err)
	}
}

func TestABatchWhoseContextEndsIsOverAndItsSlotsComeBack(t *testing.T) {
	f := withModels(t, &double)
	client := dialFake(t, f)
	model := mustModel(t, client, "double")
	batch := mustReserveBatch(t, model, 3)
	f.paused.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	call := inFlight(t, f, func() error { return batch.Run(ctx) })
	if _, err := ViewBatch[float32](batch, "x"); !errors.Is(err, ErrSlotBusy) {
		t.Errorf("a view during the call: %v", err)
	}
	cancel()
	if err := <-call; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotRun) {
		t.Error(err)
	}
	if err := batch.Run(soon(t)); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("afterwards: %v", err)
	}
	for i := range batch.Len() {
		if err := batch.Slot(i).Run(soon(t)); !errors.Is(err, ErrSlotReleased) {
			t.Errorf("row %d afterwards: %v", i, err)
		}
	}
	batch.Release() // as every caller does
	if _, err := model.TryReserveBatch(2); !errors.Is(err, ErrRingFull) {
		t.Errorf("the slots are not quarantined: %v", err)
	}
	f.paused.Store(false)
	mustReserveBatch(t, model, 4).Release()
}

func TestABatchOfAModelThatMovesIsAnsweredRowByRow(t *testing.T) {
	for name, spin := range spins() {
		f := withModels(t, &wide)
		client := dialFake(t, f, Options{Spin: spin})
		model := mustModel(t, client, "wide")
		batch := mustReserveBatch(t, model, 4)
		x := mustViewBatch[float32](t, batch, "x")
		for i := range 4 {
			x.Row(i)[0] = float32(i + 1)
		}
		moveAndWait(t, f, model.link) // before it is sent
		run := func() error { return batch.Run(soon(t)) }
		if err := run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		batch.Release()

		batch = mustReserveBatch(t, model, 4)
		x = mustViewBatch[float32](t, batch, "x")
		for i := range 4 {
			x.Row(i)[0] = float32(10*i + 10)
		}
		session, taken := f.Last(), f.Last().Taken.Load()
		f.paused.Store(true)
		call := make(chan error, 1)
		go func() { call <- run() }()
		eventually(t, "the server has all of it", func() bool { return session.Taken.Load() == taken+4 })
		move(session)
		eventually(t, "the client has dialled again", func() bool { return f.Last() != session })
		f.paused.Store(false)
		if err := <-call; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		y := mustViewBatch[float32](t, batch, "y")
		for i := range 4 {
			if y.Row(i)[0] != float32(20*i+20) {
				t.Errorf("%s: row %d is %v", name, i, y.Row(i)[0])
			}
		}
		batch.Release()
		client.Close()
	}
}

// Half of a batch was answered when its model moved: those rows are not run again.
func TestWhatWasAnsweredOfABatchIsNotRunAgain(t *testing.T) {
	f := withModels(t, &wide)
	var runs atomic.Int64
	once := wide
	once.Answer = func(s *fakeserver.Server, got layout.Submission) {
		if n := runs.Add(1); n == 3 || n == 4 { // they come too late
			return
		}
		double.Answer(s, got)
	}
	f.Change(func(l *fakeserver.Listener) { l.Models = func(string) *fakeserver.Model { return &once } })
	client := clientOf(t, f.Path)
	model := mustModel(t, client, "wide")
	batch := mustReserveBatch(t, model, 4)
	defer batch.Release()
	x := mustViewBatch[float32](t, batch, "x")
	for i := range 4 {
		x.Row(i)[0] = float32(i + 1)
	}
	call := make(chan error, 1)
	go func() { call <- batch.Run(soon(t)) }()
	eventually(t, "the server has had all of it", func() bool { return runs.Load() == 4 })
	move(f.Last())
	if err := <-call; err != nil {
		t.Fatal(err)
	}
	if n := runs.Load(); n != 6 {
		t.Errorf("%d runs, expected two and two that were not answered, and those again", n)
	}
	for i, y := 0, mustViewBatch[float32](t, batch, "y"); i < 4; i++ {
		if y.Row(i)[0] != float32(2*i+2) {
			t.Errorf("row %d is %v", i, y.Row(i)[0])
		}
	}
}

func TestABatchWithViewsAllocatesNothing(t *testing.T) {
	f := withModels(t, &double)
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": DefaultSpin} {
		client := dialFake(t, f, Options{Spin: spin})
		batch, ctx := mustReserveBatch(t, mustModel(t, client, "double"), 4), context.Background()
		if n := testing.AllocsPerRun(50, func() {
			x, err := ViewBatch[float32](batch, "x")
			if err != nil {
				t.Fatal(err)
			}
			for i := range x.Len() {
				x.Row(i)[0] = float32(i)
			}
			if err := batch.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if y, err := ViewBatch[float32](batch, "y"); err != nil || y.Row(3)[0] != 6 {
				t.Fatal(fmt.Sprint(y, err))
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		client.Close()
	}
}
