package doorbell

import (
	"fmt"
	"strings"

	"go-shm-client/internal/fault"
	"go-shm-client/internal/layout"
	"go-shm-client/internal/segment"
)

// A Signature is what a model takes and gives, in the words of the Open Inference Protocol v2.
type Signature struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Platform string   `json:"platform"`
	Inputs   []Tensor `json:"inputs"`
	Outputs  []Tensor `json:"outputs"`
}

// A Tensor is one input or output of a model.
type Tensor struct {
	Name     string   `json:"name"`
	Datatype string   `json:"datatype"`         // BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32 or FP64
	Shape    []int    `json:"shape"`            // without the dimension of the batch; -1 is the symbolic one
	Labels   []string `json:"labels,omitempty"` // of an output: a name for each of its elements, or of its last dimension's, or none
}

// datatypes are the signature's words for layout.md's "datatype".
var datatypes = map[string]uint16{
	"BOOL":   layout.DatatypeBool,
	"UINT8":  layout.DatatypeUint8,
	"UINT16": layout.DatatypeUint16,
	"UINT32": layout.DatatypeUint32,
	"UINT64": layout.DatatypeUint64,
	"INT8":   layout.DatatypeInt8,
	"INT16":  layout.DatatypeInt16,
	"INT32":  layout.DatatypeInt32,
	"INT64":  layout.DatatypeInt64,
	"FP16":   layout.DatatypeFP16,
	"BF16":   layout.DatatypeBF16,
	"FP32":   layout.DatatypeFP32,
	"FP64":   layout.DatatypeFP64,
}

// Datatype is the layout's number for a signature's word, 0 for a word that there is not.
func Datatype(word string) uint16 { return datatypes[word] }

// String is the tensor as people write it: "x" FP32 [4].
func (t Tensor) String() string { return fmt.Sprintf("%q %s %v", t.Name, t.Datatype, t.Shape) }

// String is the signature in a line.
func (s Signature) String() string {
	return fmt.Sprintf("%q (%s) -> (%s)", s.Name, list(s.Inputs), list(s.Outputs))
}

func list(tensors []Tensor) string {
	words := make([]string, len(tensors))
	for i, t := range tensors {
		if words[i] = t.String(); len(t.Labels) > 0 {
			words[i] += fmt.Sprintf(" with %d labels", len(t.Labels))
		}
	}
	return strings.Join(words, ", ")
}

// Check is nil where the signature is that of the tensors in g.
func (s *Signature) Check(g *segment.Geometry) error {
	seen := make(map[string]bool)
	if err := check("input", s.Inputs, g.Inputs, seen); err != nil {
		return err
	}
	return check("output", s.Outputs, g.Outputs, seen)
}

func check(kind string, said []Tensor, lies []layout.Tensor, seen map[string]bool) error {
	if len(said) != len(lies) {
		return fault.Violated("signature", "%d %ss, the segment has %d", len(said), kind, len(lies))
	}
	for i, t := range said {
		switch {
		case t.Name == "":
			return fault.Violated("signature", "%s %d has no name", kind, i)
		case seen[t.Name]:
			return fault.Violated("signature", "two tensors are named %q", t.Name)
		case Datatype(t.Datatype) != lies[i].Datatype:
			return fault.Violated("signature", "%s %v, the segment has datatype %d", kind, t, lies[i].Datatype)
		case !t.hasShapeOf(lies[i]):
			return fault.Violated("signature", "%s %v, the segment has %v, symbolic %d", kind, t, lies[i].Dims[:lies[i].Rank], lies[i].Symbolic)
		case len(t.Labels) > 0 && (kind == "input" || !t.mayHaveLabels(lies[i])):
			return fault.Violated("signature", "%s %v has %d labels", kind, t, len(t.Labels))
		}
		seen[t.Name] = true
	}
	return nil
}

// mayHaveLabels is whether there is one for each element, or for each of the last dimension.
func (t *Tensor) mayHaveLabels(lies layout.Tensor) bool {
	n := len(t.Labels)
	return n == t.Shape[len(t.Shape)-1] || lies.Symbolic == 0 && n == segment.Elements(lies)
}

// hasShape is whether some tensor has that shape.
func (t *Tensor) hasShape() bool {
	for i, dim := range t.Shape {
		if dim < 1 && (dim != -1 || i != 0) {
			return false
		}
	}
	return len(t.Shape) >= 1 && len(t.Shape) <= layout.MaxRank
}

func (t *Tensor) hasShapeOf(lies layout.Tensor) bool {
	if len(t.Shape) != int(lies.Rank) {
		return false
	}
	for i, dim := range t.Shape {
		symbolic := i == 0 && lies.Symbolic != 0
		if symbolic != (dim == -1) || !symbolic && (dim < 0 || uint64(dim) != uint64(lies.Dims[i])) {
			return false
		}
	}
	return true
}
