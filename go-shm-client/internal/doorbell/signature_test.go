package doorbell

import (
	"errors"
	"strings"
	"testing"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// encoder is the geometry of a text encoder with two inputs, and the signature that goes with it.
func encoder() (Signature, segment.Geometry) {
	tokens := layout.Tensor{Datatype: layout.DatatypeInt64, Rank: 1, Symbolic: 1, RowBytes: 1024, Dims: [8]uint32{128}}
	return Signature{
			Name: "encoder",
			Inputs: []Tensor{
				{Name: "ids", Datatype: "INT64", Shape: []int{-1}},
				{Name: "mask", Datatype: "INT64", Shape: []int{-1}},
			},
			Outputs: []Tensor{
				{Name: "states", Datatype: "BF16", Shape: []int{-1, 8}},
				{Name: "mood", Datatype: "FP32", Shape: []int{3}, Labels: []string{"good", "bad", "none"}},
			},
		}, segment.Geometry{
			Inputs: []layout.Tensor{tokens, tokens},
			Outputs: []layout.Tensor{
				{Datatype: layout.DatatypeBF16, Rank: 2, Symbolic: 1, RowBytes: 2048, Dims: [8]uint32{128, 8}},
				{Datatype: layout.DatatypeFP32, Rank: 1, RowBytes: 64, Dims: [8]uint32{3}},
			},
		}
}

func TestASignatureIsThatOfTheSegmentsTensors(t *testing.T) {
	s, g := encoder()
	if err := s.Check(&g); err != nil {
		t.Error(err)
	}
	const want = `"encoder" ("ids" INT64 [-1], "mask" INT64 [-1]) -> ("states" BF16 [-1 8], "mood" FP32 [3] with 3 labels)`
	if s.String() != want {
		t.Error(s.String())
	}
	for name, c := range map[string]struct {
		spoil func(s *Signature)
		says  string
	}{
		"an input less":            {func(s *Signature) { s.Inputs = s.Inputs[:1] }, "1 inputs, the segment has 2"},
		"an output more":           {func(s *Signature) { s.Outputs = append(s.Outputs, s.Outputs[1]) }, "3 outputs, the segment has 2"},
		"no tensors":               {func(s *Signature) { *s = Signature{} }, "0 inputs"},
		"a name that is empty":     {func(s *Signature) { s.Inputs[1].Name = "" }, "input 1 has no name"},
		"two inputs of a name":     {func(s *Signature) { s.Inputs[1].Name = "ids" }, `two tensors are named "ids"`},
		"an input's name again":    {func(s *Signature) { s.Outputs[0].Name = "mask" }, `two tensors are named "mask"`},
		"another datatype":         {func(s *Signature) { s.Inputs[0].Datatype = "INT32" }, `input "ids" INT32 [-1], the segment has datatype 9`},
		"no datatype":              {func(s *Signature) { s.Inputs[0].Datatype = "" }, "datatype"},
		"a datatype in lower case": {func(s *Signature) { s.Inputs[0].Datatype = "int64" }, "datatype"},
		"a dimension less":         {func(s *Signature) { s.Outputs[0].Shape = []int{-1} }, `output "states" BF16 [-1], the segment has [128 8], symbolic 1`},
		"no shape":                 {func(s *Signature) { s.Outputs[1].Shape = nil }, "the segment has [3], symbolic 0"},
		"the bound for symbolic":   {func(s *Signature) { s.Inputs[0].Shape = []int{128} }, "the segment has [128], symbolic 1"},
		"symbolic for fixed":       {func(s *Signature) { s.Outputs[1].Shape = []int{-1} }, "the segment has [3], symbolic 0"},
		"symbolic where it counts": {func(s *Signature) { s.Outputs[0].Shape = []int{-1, -1} }, "the segment has [128 8]"},
		"another dimension":        {func(s *Signature) { s.Outputs[0].Shape = []int{-1, 9} }, "the segment has [128 8]"},
		"a label less":             {func(s *Signature) { s.Outputs[1].Labels = []string{"good", "bad"} }, "has 2 labels"},
		"labels of an input":       {func(s *Signature) { s.Inputs[0].Labels = make([]string, 128) }, "has 128 labels"},
		"labels of what is symbolic": {func(s *Signature) { s.Outputs[0].Labels = make([]string, 1024) },
			"has 1024 labels"},
	} {
		s, g := encoder()
		c.spoil(&s)
		var violation *fault.Violation
		if err := s.Check(&g); !errors.As(err, &violation) || violation.Rule != "signature" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestEveryDatatypeHasAWord(t *testing.T) {
	words := make(map[uint16]string)
	for word, number := range datatypes {
		words[number] = word
	}
	if len(words) != len(layout.DatatypeBytes)-1 || words[0] != "" {
		t.Errorf("%d words for %d datatypes: %v", len(words), len(layout.DatatypeBytes)-1, words)
	}
}
