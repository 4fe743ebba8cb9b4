package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	shm "go-shm-client"
)

// serveModels starts the command with models of tests/stub_models.py, in the order that they are given, and connects to it.
func serveModels(t *testing.T, sources ...string) (*server, *shm.Client) {
	t.Helper()
	s := serveModelsAt(t, filepath.Join(t.TempDir(), "sock"), sources...)
	return s, dial(t, s)
}

func serveModelsAt(t *testing.T, path string, sources ...string) *server {
	t.Helper()
	python := os.Getenv("SHM_PYTHON")
	if python == "" {
		t.Skip("SHM_PYTHON is not set: run `make test-go`")
	}
	command := exec.Command(python, append([]string{"-m", "shm_server.cli", "serve", "--socket", path}, sources...)...)
	tests, err := filepath.Abs("../../tests")
	if err != nil {
		t.Fatal(err)
	}
	command.Env = append(os.Environ(), "PYTHONPATH="+strings.TrimSuffix(tests+":"+os.Getenv("PYTHONPATH"), ":"))
	return startCommand(t, path, command)
}

func open(t *testing.T, client *shm.Client, name string) *shm.Model {
	t.Helper()
	model, err := client.Model(soon(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func TestEachOfAServersModelsIsCalledByItsName(t *testing.T) {
	_, client := serveModels(t, "stub_models:iris", "twice=stub_models:doubled")
	for _, name := range []string{"iris", ""} {
		iris := open(t, client, name)
		y, err := shm.Call[float32](soon(t), iris, []float32{1, 2, 3, 4})
		if err != nil || !slices.Equal(y, []float32{10, 20, 30}) {
			t.Errorf("%q: %v, %v", name, y, err)
		}
		if labels := iris.Outputs()[0].Labels; !slices.Equal(labels, []string{"setosa", "versicolor", "virginica"}) {
			t.Errorf("%q: %v", name, labels)
		}
	}
	twice := open(t, client, "twice")
	var all sync.WaitGroup
	for i := range int32(100) {
		all.Add(1)
		go func() {
			defer all.Done()
			if y, err := shm.Call[int32](soon(t), twice, []int32{i}); err != nil || !slices.Equal(y, []int32{2 * i}) {
				t.Errorf("twice %d is %v, %v", i, y, err)
			}
		}()
	}
	all.Wait()
	_, err := shm.Call[float32](soon(t), twice, []int32{1})
	if !errors.Is(err, shm.ErrTensor) || !strings.Contains(err.Error(), "[]float32, expected []int32") {
		t.Errorf("another type: %v", err)
	}
	_, err = client.Model(soon(t), "doubled") // which is served under another name
	if !errors.Is(err, shm.ErrNoSuchModel) || !strings.Contains(err.Error(), "there are 'iris', 'twice'") {
		t.Errorf("a model that there is not: %v", err)
	}
}

func TestASymbolicDimensionIsAsLongAsEachCallSays(t *testing.T) {
	_, client := serveModels(t, "stub_models:masked")
	slot, err := open(t, client, "masked").Reserve(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Release()
	for _, n := range []int{100, 1, 7, 64} {
		if err := slot.SetExtent(n); err != nil {
			t.Fatal(err)
		}
		ids, err := shm.View[int32](slot, "ids")
		if err != nil || len(ids) != n {
			t.Fatalf("%d tokens: %d ids, %v", n, len(ids), err)
		}
		mask, err := shm.View[uint8](slot, "mask")
		if err != nil || len(mask) != n {
			t.Fatalf("%d tokens: a mask of %d, %v", n, len(mask), err)
		}
		want := make([]int32, n)
		for i := range ids {
			ids[i], mask[i], want[i] = int32(i+1), 1, int32((i+1)*(i+1))
		}
		if err := slot.Run(soon(t)); err != nil {
			t.Fatalf("%d tokens: %v", n, err)
		}
		squares, err := shm.View[int32](slot, "squares")
		if err != nil || !slices.Equal(squares, want) {
			t.Errorf("%d tokens: %v, %v", n, squares, err)
		}
		sum, err := shm.View[int32](slot, "sum")
		if err != nil || !slices.Equal(sum, []int32{int32(n * (n + 1) / 2)}) {
			t.Errorf("%d tokens: their sum is %v, %v", n, sum, err)
		}
	}
	if err := slot.SetExtent(101); !errors.Is(err, shm.ErrTensor) {
		t.Errorf("beyond the bound: %v", err)
	}
}

func TestAServerSaysWhichModelsItHas(t *testing.T) {
	_, client := serveModels(t, "stub_models:iris", "twice=stub_models:doubled", "stub_models:masked")
	models, err := client.Models(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	one := func(name, datatype string, shape ...int) shm.Tensor {
		return shm.Tensor{Name: name, Datatype: datatype, Shape: shape}
	}
	want := []shm.ModelInfo{
		{Signature: shm.Signature{Name: "iris", Version: "1", Platform: "python",
			Inputs: []shm.Tensor{one("x", "FP32", 4)}, Outputs: []shm.Tensor{one("y", "FP32", 3)}}},
		{Signature: shm.Signature{Name: "twice", Version: "1", Platform: "python",
			Inputs: []shm.Tensor{one("x", "INT32", 1)}, Outputs: []shm.Tensor{one("y", "INT32", 1)}}},
		{Signature: shm.Signature{Name: "masked", Version: "1", Platform: "python",
			Inputs:  []shm.Tensor{one("ids", "INT32", -1), one("mask", "UINT8", -1)},
			Outputs: []shm.Tensor{one("squares", "INT32", -1), one("sum", "INT32", 1)}}},
	}
	for i := range want {
		want[i].Protocol, want[i].State = "call", "ready"
	}
	if !reflect.DeepEqual(models, want) {
		t.Errorf("%+v\nwant\n%+v", models, want)
	}
}

func TestABatchOfNeighboursIsRunAtOnce(t *testing.T) {
	_, client := serveModels(t, "stub_models:iris", "stub_models:masked")
	batch, err := open(t, client, "iris").ReserveBatch(soon(t), 16)
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Release()
	for round := range 50 {
		x, err := shm.ViewBatch[float32](batch, "x")
		if err != nil {
			t.Fatal(err)
		}
		for i := range x.Len() {
			copy(x.Row(i), []float32{float32(i), float32(round), 0, 0})
		}
		if err := batch.Run(soon(t)); err != nil {
			t.Fatal(err)
		}
		y, err := shm.ViewBatch[float32](batch, "y")
		if err != nil {
			t.Fatal(err)
		}
		for i := range y.Len() {
			if sum := float32(i + round); !slices.Equal(y.Row(i), []float32{sum, 2 * sum, 3 * sum}) {
				t.Fatalf("row %d of round %d: %v", i, round, y.Row(i))
			}
			if n := batch.Slot(i).Timing().Batch; n != 16 {
				t.Fatalf("row %d of round %d was run with %d", i, round, n)
			}
		}
	}

	ragged, err := open(t, client, "masked").ReserveBatch(soon(t), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer ragged.Release()
	for i := range ragged.Len() {
		n := []int{3, 64, 1, 7}[i]
		if err := ragged.Slot(i).SetExtent(n); err != nil {
			t.Fatal(err)
		}
		ids, _ := shm.View[int32](ragged.Slot(i), "ids")
		mask, _ := shm.View[uint8](ragged.Slot(i), "mask")
		for j := range n {
			ids[j], mask[j] = int32(j+1), 1
		}
	}
	if err := ragged.Run(soon(t)); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int32{3, 64, 1, 7} {
		if sum, err := shm.View[int32](ragged.Slot(i), "sum"); err != nil || sum[0] != n*(n+1)/2 {
			t.Errorf("row %d: %v, %v", i, sum, err)
		}
		if squares, err := shm.View[int32](ragged.Slot(i), "squares"); err != nil || int32(len(squares)) != n || squares[n-1] != n*n {
			t.Errorf("row %d: %v, %v", i, squares, err)
		}
	}
}

func TestAClientThatWasMadeBeforeItsServerWaitsForItsModels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	client, err := shm.NewClient(path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Model(soon(t), "twice"); !errors.Is(err, shm.ErrServerGone) || !errors.Is(err, shm.ErrNotRun) {
		t.Errorf("before: %v", err)
	}
	ready := make(chan error, 1)
	go func() { ready <- client.WaitReady(t.Context(), "twice") }()
	serveModelsAt(t, path, "stub_models:iris", "twice=stub_models:doubled")
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if y, err := shm.Call[int32](soon(t), open(t, client, "twice"), []int32{21}); err != nil || !slices.Equal(y, []int32{42}) {
		t.Errorf("%v, %v", y, err)
	}
	if err := client.WaitReady(soon(t), "thrice"); !errors.Is(err, shm.ErrNoSuchModel) {
		t.Errorf("one that there is not: %v", err)
	}
}

func TestAModelThatDiesInABatchFailsThatCallAndIsBack(t *testing.T) {
	s, client := serveModels(t, "stub_models:iris", "stub_models:mortal")
	iris, mortal := open(t, client, "iris"), open(t, client, "mortal")
	for death := range 2 {
		_, err := shm.Call[int32](soon(t), mortal, []int32{-9})
		if !errors.Is(err, shm.ErrServerGone) || errors.Is(err, shm.ErrNotRun) {
			t.Fatalf("the call that killed it: %v, want ErrServerGone, and it may have run", err)
		}
		if y, err := shm.Call[float32](soon(t), iris, []float32{1, 0, 0, 0}); err != nil || !slices.Equal(y, []float32{1, 2, 3}) {
			t.Errorf("another model meanwhile: %v, %v", y, err)
		}
		eventually(t, "it is started again", func() bool { return strings.Count(s.log.String(), "the process of mortal is back") == death+1 })
		if err := mortal.WaitReady(soon(t)); err != nil {
			t.Fatal(err)
		}
		if y, err := shm.Call[int32](soon(t), mortal, []int32{7}); err != nil || !slices.Equal(y, []int32{7}) {
			t.Errorf("once it is back: %v, %v", y, err)
		}
	}
	models, err := client.Models(soon(t))
	if err != nil || len(models) != 2 || models[1].State != "ready" {
		t.Errorf("%+v, %v", models, err)
	}
}
