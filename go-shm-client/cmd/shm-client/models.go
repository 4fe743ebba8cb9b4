package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fault"
)

const modelsSummary = `Lists the server's models, the default of each protocol first. "call" runs those of protocol call, "prompt" the first of
protocol stream. An input and an output are printed as NAME TYPE[SHAPE]; -1 is a dimension that each call chooses. A model that
is starting answers later.`

func models(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "models", "", modelsSummary).connects(10*time.Second, "the answer")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused("unexpected argument %q", operands[0])
	}
	var found []shm.ModelInfo
	client, err := f.use(ctx, func(ctx context.Context, client *shm.Client) (err error) {
		found, err = client.Models(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("models: %w", err)
	}
	defer client.Close()
	if t.json {
		for _, m := range found {
			t.object(m)
		}
		return nil
	}
	table := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tPROTOCOL\tSTATE\tVERSION\tPLATFORM\tINPUTS\tOUTPUTS")
	for _, m := range found {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			fault.Line(m.Name), m.Protocol, m.State, fault.Line(m.Version), fault.Line(m.Platform), tensors(m.Inputs), tensors(m.Outputs))
	}
	return table.Flush()
}

// tensors is inputs or outputs in a cell: ids INT32[-1], mask UINT8[-1].
func tensors(all []shm.Tensor) string {
	words := make([]string, len(all))
	for i, tensor := range all {
		shape := make([]string, len(tensor.Shape))
		for axis, dim := range tensor.Shape {
			shape[axis] = strconv.Itoa(dim)
		}
		words[i] = fmt.Sprintf("%s %s[%s]", fault.Line(tensor.Name), tensor.Datatype, strings.Join(shape, ","))
	}
	return strings.Join(words, ", ")
}
