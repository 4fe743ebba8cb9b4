//go:build linux

package shm

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go-shm-client/internal/doorbell"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/machine"
)

// double is a model that gives twice what it takes, and fails for the number 13.
var double = fakeserver.Model{
	Signature: Signature{
		Name:    "double",
		Version: "7",
		Inputs:  []Tensor{{Name: "x", Datatype: "FP32", Shape: []int{2, 2}}},
		Outputs: []Tensor{{Name: "y", Datatype: "FP32", Shape: []int{4}}},
	},
	Answer: func(s *fakeserver.Server, got layout.Submission) {
		if got.Op == layout.OpEcho {
			s.Echo(got)
			return
		}
		x, y := elements[float32](s.Input(0, got.Slot)), elements[float32](s.Output(0, got.Slot))
		if x[0] == 13 {
			s.Fail(got, layout.StatusModelError, "thirteen\nis unlucky")
			return
		}
		for i := range 4 {
			y[i] = 2 * x[i]
		}
		s.Answer(got, layout.Completion{Batch: 3, QueueNS: 1000, ModelNS: 2000})
	},
}

// encoder has a symbolic dimension: for each token, its id and its negative; whether there are more than two, and 7.
var encoder = fakeserver.Model{
	Signature: Signature{
		Name: "encoder",
		Inputs: []Tensor{
			{Name: "ids", Datatype: "INT32", Shape: []int{-1}},
			{Name: "mask", Datatype: "BOOL", Shape: []int{-1}},
		},
		Outputs: []Tensor{
			{Name: "states", Datatype: "FP64", Shape: []int{-1, 2}},
			{Name: "facts", Datatype: "BOOL", Shape: []int{2}},
		},
	},
	Bound: 8,
	Answer: func(s *fakeserver.Server, got layout.Submission) {
		if got.Op == layout.OpEcho {
			s.Echo(got)
			return
		}
		ids, states := elements[int32](s.Input(0, got.Slot)), elements[float64](s.Output(0, got.Slot))
		for i := range got.Extent {
			if s.Input(1, got.Slot)[i] != 0 {
				states[2*i], states[2*i+1] = float64(ids[i]), -float64(ids[i])
			}
		}
		facts := s.Output(1, got.Slot)
		facts[0], facts[1] = byte(got.Extent/3), 7 // neither is what a bool can be
		s.Answer(got, layout.Completion{Extent: got.Extent, Batch: 1})
	},
}

func elements[T any](row []byte) []T {
	view, err := machine.View[T](row)
	if err != nil {
		panic(err)
	}
	return view
}

// withModels is a fake that has those call models, by name.
func withModels(t testing.TB, models ...*fakeserver.Model) *fake {
	t.Helper()
	f := startFake(t, 4)
	f.Models = func(name string) *fakeserver.Model {
		for _, model := range models {
			if model.Name == name {
				return model
			}
		}
		return nil
	}
	return f
}

func mustModel(t testing.TB, client *Client, name string) *Model {
	t.Helper()
	model, err := client.Model(soon(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func mustReserve(t testing.TB, m *Model) Slot {
	t.Helper()
	slot, err := m.Reserve(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func mustView[T Element](t testing.TB, s Slot, name string) []T {
	t.Helper()
	view, err := View[T](s, name)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func TestAModelIsCalledByItsName(t *testing.T) {
	client := dialFake(t, withModels(t, &double))
	model := mustModel(t, client, "double")
	y, err := Call[float32](soon(t), model, []float32{1, 2.5, -3, 4})
	if err != nil || !reflect.DeepEqual(y, []float32{2, 5, -6, 8}) {
		t.Errorf("%v, %v", y, err)
	}
	if s := model.Signature(); s.Version != "7" || s.String() != `"double" ("x" FP32 [2 2]) -> ("y" FP32 [4])` {
		t.Errorf("%+v", s)
	}
	if model.Inputs()[0].Name != "x" || model.Outputs()[0].Name != "y" {
		t.Errorf("%v, %v", model.Inputs(), model.Outputs())
	}
	var held []Slot
	for range 3 {
		held = append(held, mustReserve(t, model))
	}
	if y, err := TryCall[float32](soon(t), model, []float32{1, 2.5, -3, 4}); err != nil || !reflect.DeepEqual(y, []float32{2, 5, -6, 8}) {
		t.Errorf("one slot is free: %v, %v", y, err)
	}
	held = append(held, mustReserve(t, model))
	if _, err := TryCall[float32](soon(t), model, make([]float32, 4)); !errors.Is(err, ErrRingFull) || !errors.Is(err, ErrNotRun) {
		t.Errorf("none is: %v", err)
	}
	for _, slot := range held {
		slot.Release()
	}
	_, err = Call[float32](soon(t), model, []float32{13, 0, 0, 0})
	var failed *ModelError
	if !errors.As(err, &failed) || failed.Message != "thirteen is unlucky" || errors.Is(err, ErrNotRun) {
		t.Error(err)
	}
	if pictures := mustModel(t, client, ""); pictures.link != client.images.made.Load() || pictures.Signature().Name != "brightness" {
		t.Errorf("the default model is %v", pictures.Signature())
	}
}

func TestAWrongTensorIsSaidBeforeAnythingIsSent(t *testing.T) {
	client := dialFake(t, withModels(t, &double, &encoder))
	model, tokens := mustModel(t, client, "double"), mustModel(t, client, "encoder")
	slot, symbolic := mustReserve(t, model), mustReserve(t, tokens)
	defer slot.Release()
	defer symbolic.Release()
	four := []float32{1, 2, 3, 4}
	for says, err := range map[string]error{
		`a view of "x" FP32 [2 2] as []float64, expected []float32`: func() error {
			_, err := Call[float32](soon(t), model, make([]float64, 4))
			return err
		}(),
		`a view of "y" FP32 [4] as []int32, expected []float32`: func() error { _, err := Call[int32](soon(t), model, four); return err }(),
		`3 elements for "x" FP32 [2 2], expected 4`:             func() error { _, err := Call[float32](soon(t), model, four[:3]); return err }(),
		`5 elements for "x" FP32 [2 2], expected 4`:             func() error { _, err := Call[float32](soon(t), model, append(four, 5)); return err }(),
		`Call takes a model of one input and one output, use Reserve and View for "encoder"`: func() error {
			_, err := Call[float64](soon(t), tokens, []int32{1})
			return err
		}(),
		`no tensor "z" in "double" ("x" FP32 [2 2])`:                   func() error { _, err := View[float32](slot, "z"); return err }(),
		`a view of "y" FP32 [4] as []uint32, expected []float32`:       func() error { _, err := View[uint32](slot, "y"); return err }(),
		`an extent of 1, nothing is symbolic in "double"`:              slot.SetExtent(1),
		`an extent of 9, expected 1 to 8 for "encoder" ("ids" INT32 [`: symbolic.SetExtent(9),
		`an extent of 0, expected 1 to 8`:                              symbolic.SetExtent(0),
		`an extent of -1, expected 1 to 8`:                             symbolic.SetExtent(-1),
	} {
		if !errors.Is(err, ErrTensor) || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if n := client.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestViewsAreAsLongAsTheExtentSays(t *testing.T) {
	client := dialFake(t, withModels(t, &encoder))
	slot := mustReserve(t, mustModel(t, client, "encoder"))
	defer slot.Release()
	if all := mustView[int32](t, slot, "ids"); len(all) != 8 {
		t.Errorf("%d ids before an extent is set", len(all))
	}
	for _, extent := range []int{3, 8, 1} {
		if err := slot.SetExtent(extent); err != nil {
			t.Fatal(err)
		}
		ids, mask := mustView[int32](t, slot, "ids"), mustView[bool](t, slot, "mask")
		if len(ids) != extent || cap(ids) != extent || len(mask) != extent {
			t.Errorf("%d ids with room for %d, %d of the mask, want %d", len(ids), cap(ids), len(mask), extent)
		}
		for i := range ids {
			ids[i], mask[i] = int32(10*extent+i), i != 2
		}
		if err := slot.Run(soon(t)); err != nil {
			t.Fatal(err)
		}
		states, facts := mustView[float64](t, slot, "states"), mustView[bool](t, slot, "facts")
		if len(states) != 2*extent || states[0] != float64(10*extent) || states[1] != -states[0] {
			t.Errorf("extent %d: states %v", extent, states)
		}
		if len(facts) != 2 || facts[0] != (extent > 2) || !facts[1] {
			t.Errorf("extent %d: facts %v", extent, facts)
		}
		for i, b := range slot.lease.output(1) {
			if b > 1 {
				t.Errorf("a bool of %d at %d", b, i)
			}
		}
		echo, err := slot.Echo(soon(t))
		if want := fakeserver.Checksum(slot.lease.input(0), slot.lease.input(1)); err != nil || echo.Checksum != want {
			t.Errorf("echo: %#x, want %#x, %v", echo.Checksum, want, err)
		}
	}
	if now := mustReserve(t, mustModel(t, client, "encoder")); len(mustView[int32](t, now, "ids")) != 8 {
		t.Error("a new slot has the extent of another")
	} else {
		now.Release()
	}
}

func TestTimingIsThatOfTheLastCall(t *testing.T) {
	client := dialFake(t, withModels(t, &double))
	slot := mustReserve(t, mustModel(t, client, "double"))
	if slot.Timing() != (Timing{}) {
		t.Errorf("before a call: %+v", slot.Timing())
	}
	if err := slot.Run(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got := slot.Timing(); got != (Timing{3, time.Microsecond, 2 * time.Microsecond}) {
		t.Errorf("%+v", got)
	}
	slot.Release()
	if slot.Timing() != (Timing{}) {
		t.Errorf("after the lease: %+v", slot.Timing())
	}
	if _, err := View[float32](slot, "x"); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("a view after the lease: %v", err)
	}
	if err := slot.Run(soon(t)); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("a call after the lease: %v", err)
	}
	if err := slot.SetExtent(1); !errors.Is(err, ErrSlotReleased) {
		t.Errorf("an extent after the lease: %v", err)
	}
}

// viewed tries a view of each element type, and says which of them is one.
func viewed(s Slot, name string) (kinds []reflect.Kind) {
	try := func(kind reflect.Kind, err error) {
		if err == nil {
			kinds = append(kinds, kind)
		}
	}
	try(as[bool](s, name))
	try(as[uint8](s, name))
	try(as[uint16](s, name))
	try(as[uint32](s, name))
	try(as[uint64](s, name))
	try(as[int8](s, name))
	try(as[int16](s, name))
	try(as[int32](s, name))
	try(as[int64](s, name))
	try(as[float32](s, name))
	try(as[float64](s, name))
	return kinds
}

func as[T Element](s Slot, name string) (reflect.Kind, error) {
	view, err := View[T](s, name)
	if err == nil && (len(view) != 3 || cap(view) != 3) {
		err = errors.New("not three elements")
	}
	return reflect.TypeFor[T]().Kind(), err
}

func TestEachDatatypeIsViewedAsItsGoType(t *testing.T) {
	want := map[string]reflect.Kind{
		"BOOL": reflect.Bool, "UINT8": reflect.Uint8, "UINT16": reflect.Uint16, "UINT32": reflect.Uint32, "UINT64": reflect.Uint64,
		"INT8": reflect.Int8, "INT16": reflect.Int16, "INT32": reflect.Int32, "INT64": reflect.Int64,
		"FP16": reflect.Uint16, "BF16": reflect.Uint16, "FP32": reflect.Float32, "FP64": reflect.Float64,
	}
	all := fakeserver.Model{Signature: Signature{Name: "all", Outputs: []Tensor{{Name: "y", Datatype: "UINT8", Shape: []int{1}}}}}
	for word := range want {
		all.Inputs = append(all.Inputs, Tensor{Name: word, Datatype: word, Shape: []int{3}})
	}
	slot := mustReserve(t, mustModel(t, dialFake(t, withModels(t, &all)), "all"))
	defer slot.Release()
	for word, kind := range want {
		if got := viewed(slot, word); len(got) != 1 || got[0] != kind {
			t.Errorf("%s can be viewed as %v, want %v", word, got, kind)
		}
	}
}

func TestAModelIsConnectedToOnceHoweverManyAskForIt(t *testing.T) {
	f := withModels(t, &double, &encoder)
	client := dialFake(t, f)
	var all sync.WaitGroup
	models := make([]*Model, 32)
	for i := range models {
		all.Add(1)
		go func() {
			defer all.Done()
			var err error
			if models[i], err = client.Model(soon(t), []string{"double", "encoder"}[i%2]); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	for i, model := range models {
		if model != models[i%2] {
			t.Errorf("caller %d has a model of its own", i)
		}
	}
	if n := len(f.Sessions()); n != 3 {
		t.Errorf("%d sessions, want one for each model", n)
	}
	client.Close()
	if _, err := models[0].Reserve(soon(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := client.Model(soon(t), "double"); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotRun) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAModelThatThereIsNotIsATypedErrorUntilThereIs(t *testing.T) {
	f := withModels(t)
	client := dialFake(t, f)
	for range 2 {
		_, err := client.Model(soon(t), "double")
		var refused *RefusedError
		if !errors.Is(err, ErrNoSuchModel) || !errors.Is(err, ErrNotRun) || !errors.As(err, &refused) || !strings.Contains(err.Error(), "there is brightness") {
			t.Error(err)
		}
	}
	for _, name := range []string{strings.Repeat("x", 256), "\xff"} {
		if _, err := client.Model(soon(t), name); !errors.Is(err, ErrNoSuchModel) || !strings.Contains(err.Error(), "expected UTF-8 of at most 255 bytes") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := client.Prompt(soon(t), "x"); !errors.Is(err, ErrNoSuchModel) || !errors.Is(err, ErrNotRun) {
		t.Errorf("a prompt: %v", err)
	}
	if n := len(client.links); n != 2 { // those of the defaults
		t.Errorf("%d entries are kept", n)
	}
	f.Change(func(l *fakeserver.Listener) { l.Models = func(string) *fakeserver.Model { return &double } })
	if _, err := Call[float32](soon(t), mustModel(t, client, "double"), make([]float32, 4)); err != nil {
		t.Error(err)
	}
}

func TestModelsAreAskedForWithTheirOptions(t *testing.T) {
	f := withModels(t, &double, &encoder)
	client := dialFake(t, f, Options{Models: map[string]ModelOptions{"encoder": {Slots: 3, Extent: 5}, "": {Slots: 2}}})
	slot := mustReserve(t, mustModel(t, client, "encoder"))
	defer slot.Release()
	if ids := mustView[int32](t, slot, "ids"); len(ids) != 5 {
		t.Errorf("room for %d ids, want 5", len(ids))
	}
	for name, want := range map[string]int{"encoder": 3, "double": 4, "": 2} {
		if n := mustModel(t, client, name).link.current.Load().Slots(); n != want {
			t.Errorf("%q: %d slots, want %d", name, n, want)
		}
	}
}

func TestAModelOfAnotherSignatureClassifiesNothing(t *testing.T) {
	pixels := fakeserver.Brightness.Inputs
	for name, c := range map[string]struct {
		model         fakeserver.Model
		takesPictures bool
	}{
		"numbers":         {double, false},
		"two inputs":      {fakeserver.Model{Signature: Signature{Inputs: append([]Tensor{{Name: "more", Datatype: "UINT8", Shape: []int{3, 32, 32}}}, pixels...), Outputs: double.Outputs}}, false},
		"a larger input":  {fakeserver.Model{Signature: Signature{Inputs: []Tensor{{Name: "p", Datatype: "UINT8", Shape: []int{3, 64, 64}}}, Outputs: fakeserver.Brightness.Outputs}}, false},
		"no labels":       {fakeserver.Model{Signature: Signature{Inputs: pixels, Outputs: double.Outputs}}, true},
		"doubles labels":  {fakeserver.Model{Signature: Signature{Inputs: pixels, Outputs: []Tensor{{Name: "y", Datatype: "FP64", Shape: []int{1}, Labels: []string{"a"}}}}}, true},
		"labels and more": {fakeserver.Model{Signature: Signature{Inputs: pixels, Outputs: append(fakeserver.Brightness.Outputs, double.Outputs...)}}, true},
	} {
		f := startFake(t, 4)
		c.model.Answer = (*fakeserver.Server).Echo
		f.Models = func(string) *fakeserver.Model { return &c.model }
		client := dialFake(t, f)
		_, err := client.Classify(soon(t), gray(1))
		var other *SignatureError
		if !errors.As(err, &other) || !errors.Is(err, ErrNotRun) || !strings.Contains(err.Error(), "the model is "+c.model.String()+", expected one UINT8 [3 32 32] input") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := client.Echo(soon(t), gray(1)); (err == nil) != c.takesPictures || err != nil && !errors.As(err, &other) {
			t.Errorf("%s: Echo: %v", name, err)
		}
		slot, err := client.TryReserveImage(soon(t))
		if (err == nil) != c.takesPictures || err != nil && !errors.As(err, &other) {
			t.Errorf("%s: TryReserveImage: %v", name, err)
		}
		slot.Release()
		if _, err := client.Ping(soon(t)); err != nil {
			t.Errorf("%s: Ping: %v", name, err)
		}
		for range 5 { // every slot came back
			mustReserve(t, mustModel(t, client, "")).Release()
		}
		client.Close()
	}
}

func TestTheFirstOfTheLargestScoresWins(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		scores []float32
		at     int
	}{{[]float32{1}, 0}, {[]float32{1, 2, 2}, 1}, {[]float32{3, 2, 3}, 0}, {[]float32{-2, -1}, 1}, {[]float32{0, nan, 1}, 2}} {
		if at, best := largest(c.scores); at != c.at || best != c.scores[c.at] {
			t.Errorf("%v: %d, %v", c.scores, at, best)
		}
	}
}

func TestARunWithViewsAllocatesNothing(t *testing.T) {
	f := withModels(t, &encoder)
	for name, spin := range map[string]time.Duration{"parked": NoSpin, "spinning": DefaultSpin} {
		client := dialFake(t, f, Options{Spin: spin})
		model, ctx := mustModel(t, client, "encoder"), context.Background()
		if n := testing.AllocsPerRun(50, func() {
			slot, err := model.Reserve(ctx)
			if err == nil {
				err = slot.SetExtent(3)
			}
			if err != nil {
				t.Fatal(err)
			}
			ids, err := View[int32](slot, "ids")
			if err != nil {
				t.Fatal(err)
			}
			ids[0] = 5
			if err := slot.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := View[float64](slot, "states"); err != nil {
				t.Fatal(err)
			}
			if _, err := View[bool](slot, "facts"); err != nil {
				t.Fatal(err)
			}
			slot.Release()
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		client.Close()
	}
}

func TestAModelReconnectsByItself(t *testing.T) {
	f := withModels(t, &double)
	client := dialFake(t, f)
	model := mustModel(t, client, "double")
	var built atomic.Bool
	f.Change(func(l *fakeserver.Listener) {
		l.Refuse = func(name string) *doorbell.RefusedError {
			if built.Load() {
				return nil
			}
			return &doorbell.RefusedError{Reason: layout.ReasonNoSuchModel, Message: "it is being built"}
		}
	})
	f.Last().Kill()
	eventually(t, "the refusal shows", func() bool {
		_, err := model.Reserve(soon(t))
		return errors.Is(err, ErrNoSuchModel) && errors.Is(err, ErrServerGone) && errors.Is(err, ErrNotRun)
	})
	built.Store(true)
	if err := model.WaitReady(soon(t)); err != nil {
		t.Fatal(err)
	}
	if y, err := Call[float32](soon(t), model, []float32{1, 1, 1, 1}); err != nil || y[3] != 2 {
		t.Errorf("%v, %v", y, err)
	}
	if mustModel(t, client, "double") != model || client.Stats().Reconnects != 1 {
		t.Errorf("another model, or %d reconnects", client.Stats().Reconnects)
	}
}

func TestAModelThatComesBackWithAnotherSignatureIsNotCalled(t *testing.T) {
	half := double
	half.Outputs = []Tensor{{Name: "y", Datatype: "FP32", Shape: []int{2}}}
	f := withModels(t, &double)
	client := dialFake(t, f)
	old := mustModel(t, client, "double")
	f.Change(func(l *fakeserver.Listener) { l.Models = func(string) *fakeserver.Model { return &half } })
	f.Last().Kill()
	eventually(t, "it is back", func() bool { return client.Stats().Reconnects == 1 })
	var other *SignatureError
	for range 5 { // no slot is lost
		_, err := old.Reserve(soon(t))
		if !errors.As(err, &other) || !errors.Is(err, fault.NotRun) || err.Error() != "the model is "+half.String()+", expected "+double.String() {
			t.Error(err)
		}
	}
	if _, err := old.TryReserve(); !errors.As(err, &other) {
		t.Error(err)
	}
	current := mustModel(t, client, "double")
	slot := mustReserve(t, current)
	defer slot.Release()
	if current == old || len(mustView[float32](t, slot, "y")) != 2 || mustModel(t, client, "double") != current {
		t.Errorf("asked for again: %v", current.Signature())
	}
}
