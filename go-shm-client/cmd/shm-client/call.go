package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fault"
)

const callSummary = `Runs a model. NAME is an input's, VALUES are its numbers one after the other, with commas between: x=5.1,3.5,1.4,0.2. With
@FILE they are those of a NumPy array, saved as .npy with the input's type and shape. Of a symbolic dimension, -1 in the
model's shape, there is as much as VALUES has. Without -json, of a long output its beginning is printed.`

// mostPrinted is how many elements of an output are printed for people.
const mostPrinted = 20

func call(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "call", " MODEL NAME=VALUES...", callSummary).connects(10*time.Second, "the call")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) == 0:
		return f.misused("no model named")
	}
	given := make(map[string]string)
	for _, operand := range operands[1:] {
		name, text, ok := strings.Cut(operand, "=")
		if _, twice := given[name]; !ok || twice {
			return f.misused("%q: not NAME=VALUES, each NAME once", operand)
		}
		given[name] = text
	}
	var model *shm.Model
	client, err := f.use(ctx, func(ctx context.Context, client *shm.Client) (err error) {
		model, err = client.Model(ctx, operands[0])
		return err
	}, operands[0])
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	defer client.Close()
	ctx, cancel := f.bound(ctx)
	defer cancel()
	slot, err := model.Reserve(ctx)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	defer slot.Release()
	if err := fillInputs(ctx, slot, model, given); err != nil {
		return fmt.Errorf("call %s: %w", model.Signature().Name, err)
	}
	began := time.Now()
	if err := slot.Run(ctx); err != nil {
		return fmt.Errorf("call: %w", err)
	}
	return t.outputs(slot, model, time.Since(began))
}

// fillInputs writes what was given for each input.
func fillInputs(ctx context.Context, slot shm.Slot, model *shm.Model, given map[string]string) error {
	read := make(map[string]values)
	extent := 0
	for _, input := range model.Inputs() {
		text, ok := given[input.Name]
		if !ok {
			return fmt.Errorf("no values for the input %v", input)
		}
		v, err := await(ctx, func() (values, error) { return readValues(text, input) })
		if err != nil {
			return fmt.Errorf("%v: %w", input, err)
		}
		read[input.Name] = v
		if n, symbolic, err := v.extent(input); err != nil {
			return err
		} else if symbolic && extent != 0 && n != extent {
			return fmt.Errorf("%v: %d along the symbolic dimension, another input has %d", input, n, extent)
		} else if symbolic {
			extent = n
		}
	}
	for name := range given {
		if _, known := read[name]; !known {
			return fmt.Errorf("there is no input %q in %v", name, model.Signature())
		}
	}
	if extent != 0 {
		if err := slot.SetExtent(extent); err != nil {
			return err
		}
	}
	for _, input := range model.Inputs() {
		if err := elements[input.Datatype].write(slot, input.Name, read[input.Name]); err != nil {
			return fmt.Errorf("%v: %w", input, err)
		}
	}
	return nil
}

type calledObject struct {
	Model        string                       `json:"model"`
	Version      string                       `json:"version"`
	Outputs      map[string][]json.RawMessage `json:"outputs"`
	Microseconds number                       `json:"microseconds"`
}

// outputs prints what the model gave.
func (t *terminal) outputs(slot shm.Slot, model *shm.Model, took time.Duration) error {
	s := model.Signature()
	called := calledObject{s.Name, s.Version, make(map[string][]json.RawMessage), number(took.Microseconds())}
	for _, output := range model.Outputs() {
		words, err := elements[output.Datatype].read(slot, output.Name)
		switch {
		case err != nil:
			return fmt.Errorf("call: %w", err)
		case t.json:
			said := make([]json.RawMessage, len(words))
			for i, word := range words {
				if said[i] = json.RawMessage(word); !json.Valid(said[i]) { // NaN and the infinite ones
					said[i] = json.RawMessage("null")
				}
			}
			called.Outputs[output.Name] = said
		default:
			fmt.Fprintf(t.stdout, "%s  %s\n", fault.Line(output.Name), people(words, output.Labels))
		}
	}
	if t.json {
		t.object(called)
	}
	return nil
}

// people is an output's elements for people to read.
func people(words, labels []string) string {
	var said []string
	for i, word := range words[:min(len(words), mostPrinted)] {
		if len(labels) == len(words) {
			word = fault.Line(labels[i]) + " " + word
		}
		said = append(said, word)
	}
	if more := len(words) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("... and %d more", more))
	}
	return strings.Join(said, "  ")
}
