package main

import (
	"context"
	"fmt"
	"runtime"

	"go-shm-client/internal/layout"
)

// programVersion is that of the server's package; a test compares them.
const programVersion = "0.1.0"

func version(_ context.Context, args []string, t *terminal) error {
	f := newFlags(t, "version", "", "Prints this program's version, and the version of the layout that it speaks.")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused("unexpected argument %q", operands[0])
	}
	spoken := fmt.Sprintf("%d.%d", layout.LayoutMajor, layout.LayoutMinor)
	if t.json {
		t.object(map[string]string{"version": programVersion, "layout": spoken, "go": runtime.Version()})
		return nil
	}
	fmt.Fprintf(t.stdout, "shm-client %s, layout %s, %s\n", programVersion, spoken, runtime.Version())
	return nil
}
