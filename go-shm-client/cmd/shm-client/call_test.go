//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	shm "go-shm-client"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// reversed is a model that gives what it takes, the first element last, and NaN where the first is 99.
var reversed = fakeserver.Model{
	Signature: shm.Signature{
		Name:    "reversed",
		Version: "3",
		Inputs:  []shm.Tensor{{Name: "x", Datatype: "FP32", Shape: []int{3}}},
		Outputs: []shm.Tensor{{Name: "y", Datatype: "FP32", Shape: []int{3}, Labels: []string{"a", "b", "c"}}},
	},
	Answer: func(s *fakeserver.Server, got layout.Submission) {
		x, y := s.Input(0, got.Slot), s.Output(0, got.Slot)
		for i := range 3 {
			copy(y[4*i:4*i+4], x[4*(2-i):])
		}
		if bytes.Equal(x[:4], []byte{0, 0, 0xc6, 0x42}) { // 99
			copy(y, []byte{0, 0, 0xc0, 0x7f}) // NaN
		}
		s.Answer(got, layout.Completion{Batch: 1})
	},
}

// copies is a model with a symbolic dimension, whose outputs are its inputs.
var copies = fakeserver.Model{
	Signature: shm.Signature{
		Name: "copies",
		Inputs: []shm.Tensor{
			{Name: "ids", Datatype: "INT64", Shape: []int{-1, 2}}, {Name: "mask", Datatype: "BOOL", Shape: []int{-1}}, {Name: "h", Datatype: "FP16", Shape: []int{2}},
		},
		Outputs: []shm.Tensor{
			{Name: "ids_", Datatype: "INT64", Shape: []int{-1, 2}}, {Name: "mask_", Datatype: "BOOL", Shape: []int{-1}}, {Name: "h_", Datatype: "FP16", Shape: []int{2}},
		},
	},
	Bound: 30,
	Answer: func(s *fakeserver.Server, got layout.Submission) {
		for i := range 3 {
			copy(s.Output(i, got.Slot), s.Input(i, got.Slot))
		}
		s.Answer(got, layout.Completion{Batch: 1, Extent: got.Extent})
	},
}

func startModels(t *testing.T) (socket string) {
	t.Helper()
	f := &fakeserver.Listener{
		Path:      filepath.Join(t.TempDir(), "sock"),
		Slots:     4,
		Behaviour: func() fakeserver.Behaviour { return fakeserver.Behaviour{} },
		Models: func(name string) *fakeserver.Model {
			return map[string]*fakeserver.Model{"reversed": &reversed, "copies": &copies}[name]
		},
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f.Path
}

// npy is a file as numpy.save writes it.
func npy(t *testing.T, header string, data ...byte) (path string) {
	t.Helper()
	header += strings.Repeat(" ", 64-(10+len(header)+1)%64) + "\n"
	file := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	path = filepath.Join(t.TempDir(), "array.npy")
	if err := os.WriteFile(path, append(append(file, header...), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAModelIsCalledWithNumbersAndWithFiles(t *testing.T) {
	socket := startModels(t)
	floats := npy(t, "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0, 0x40, 0x40)
	for _, x := range []string{"x=1,2,3", "x=1, 2.0,3e0", "x=@" + floats} {
		if code, stdout, stderr := shmClient(t, "call", "-socket", socket, "reversed", x); code != 0 || stdout != "y  a 3  b 2  c 1\n" || stderr != "" {
			t.Errorf("%s: code %d, %q, %q", x, code, stdout, stderr)
		}
	}
	code, stdout, _ := shmClient(t, "call", "-json", "reversed", "x=99,0.1,-3", "-socket", socket)
	var said struct {
		Model, Version string
		Outputs        map[string][]*float64
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil || code != 0 {
		t.Fatal(code, stdout, err)
	}
	if y := said.Outputs["y"]; said.Model != "reversed" || said.Version != "3" || len(y) != 3 || y[0] != nil || *y[1] != 0.1 || *y[2] != 99 {
		t.Error(stdout)
	}

	halves := npy(t, "{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }", 0, 0x3e, 0xff, 0xfb)
	ids := npy(t, "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }", append(bytes.Repeat([]byte{0xff}, 8), 5, 0, 0, 0, 0, 0, 0, 0)...)
	const want = "ids_  -1  5\nmask_  true\nh_  1.5  -65504\n"
	if code, stdout, stderr := shmClient(t, "call", "-socket", socket, "copies", "mask=true", "h=@"+halves, "ids=@"+ids); code != 0 || stdout != want {
		t.Errorf("code %d, %q, %q", code, stdout, stderr)
	}
	many := strings.TrimSuffix(strings.Repeat("7,", 60), ",")
	_, stdout, _ = shmClient(t, "call", "-socket", socket, "copies", "mask="+strings.TrimSuffix(strings.Repeat("0,", 30), ","), "h=@"+halves, "ids="+many)
	if !strings.Contains(stdout, "7  ... and 40 more\n") {
		t.Errorf("of a long output: %q", stdout)
	}
}

func TestAWrongCallIsOneLineThatSaysWhatWasExpected(t *testing.T) {
	socket := startModels(t)
	const floats = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
	twelve := make([]byte, 12)
	halves := "h=@" + npy(t, "{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }", 0, 0, 0, 0)
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "no model named", nil},
		{2, `"x": not NAME=VALUES, each NAME once`, []string{"reversed", "x"}},
		{2, `"x=2": not NAME=VALUES, each NAME once`, []string{"reversed", "x=1", "x=2"}},
		{1, `no model "nobody"`, []string{"nobody", "x=1"}},
		{1, `no values for the input "x" FP32 [3]`, []string{"reversed"}},
		{1, `there is no input "z" in "reversed"`, []string{"reversed", "x=1,2,3", "z=1"}},
		{1, `"x" FP32 [3]: 2 values, expected 3`, []string{"reversed", "x=1,2"}},
		{1, `value 1: strconv.ParseFloat: parsing "two"`, []string{"reversed", "x=1,two,3"}},
		{1, `no such file`, []string{"reversed", "x=@/nowhere"}},
		{1, `not a .npy file`, []string{"reversed", "x=@/proc/self/exe"}},
		{1, `elements of type <f8 (Fortran's order: False), expected <f4`, []string{"reversed", "x=@" + npy(t, strings.Replace(floats, "<f4", "<f8", 1), twelve...)}},
		{1, `(Fortran's order: True), expected <f4 in C's order`, []string{"reversed", "x=@" + npy(t, strings.Replace(floats, "False", "True", 1), twelve...)}},
		{1, `shape [4], expected [3]`, []string{"reversed", "x=@" + npy(t, strings.Replace(floats, "(3,)", "(4,)", 1), twelve...)}},
		{1, `shape [], expected [3]`, []string{"reversed", "x=@" + npy(t, strings.Replace(floats, "(3,)", "()", 1), twelve...)}},
		{1, `11 bytes of elements or more, shape [3] has 12`, []string{"reversed", "x=@" + npy(t, floats, twelve[1:]...)}},
		{1, `13 bytes of elements or more, shape [3] has 12`, []string{"reversed", "x=@" + npy(t, floats, append(twelve, 0)...)}},
		{1, `a header that is not understood`, []string{"reversed", "x=@" + npy(t, "{'descr': [('a', '<f4')]}")}},
		{1, `more than the 1073741824 bytes`, []string{"copies", "ids=@" + npy(t, "{'descr': '<i8', 'fortran_order': False, 'shape': (2147483647, 2), }"), "mask=1", halves}},
		{1, `numbers of 16 bits are read from @FILE only`, []string{"copies", "ids=1,2", "mask=1", "h=1,2"}},
		{1, `3 values, expected a multiple of 2`, []string{"copies", "ids=1,2,3", "mask=1", halves}},
		{1, `2 along the symbolic dimension, another input has 1`, []string{"copies", "ids=1,2", "mask=1,0", halves}},
		{1, `an extent of 31, expected 1 to 30`, []string{"copies", "ids=" + strings.TrimSuffix(strings.Repeat("1,", 62), ","), "mask=" + strings.TrimSuffix(strings.Repeat("1,", 31), ","), halves}},
	} {
		code, stdout, stderr := shmClient(t, append([]string{"call", "-socket", socket}, c.args...)...)
		if code != c.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: code %d, %q, %q, want %q", c.args, code, stdout, stderr, c.says)
		}
	}
}

func TestHalvesAreRead(t *testing.T) {
	for bits, want := range map[uint16]float64{0: 0, 1: math.Ldexp(1, -24), 0x0400: math.Ldexp(1, -14), 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1)} {
		if got := half(bits); got != want {
			t.Errorf("%#x: %v, want %v", bits, got, want)
		}
	}
	if got := half(0x7e00); fmt.Sprint(got) != "NaN" {
		t.Error(got)
	}
}
