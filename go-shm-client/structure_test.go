package shm

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// order is which way imports point: a package imports only what stands before it.
var order = []string{
	"internal/machine", "internal/fault", "internal/layout", "internal/peer",
	"internal/ring", "internal/segment", "internal/doorbell", "internal/session",
	"internal/fakeserver", ".",
}

func eachFile(t *testing.T, look func(file, folder string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if _, err := os.Stat(filepath.Join(file, "go.mod")); err == nil && file != "." {
				return filepath.SkipDir // a module of its own, with dependencies of its own
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range parsed.Imports {
			imports = append(imports, strings.Trim(spec.Path.Value, `"`))
		}
		look(file, filepath.Dir(file), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsPointOneWayAndLeaveTheStandardLibraryAlone(t *testing.T) {
	eachFile(t, func(file, folder string, imports []string) {
		for _, name := range imports {
			inside, ours := strings.CutPrefix(name, "go-shm-client")
			if !ours {
				if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") {
					t.Errorf("%s imports %s: only the standard library is allowed", file, name)
				}
				continue
			}
			inside = path.Clean("./" + strings.TrimPrefix(inside, "/"))
			if inside == "internal/fakeserver" && !strings.HasSuffix(file, "_test.go") {
				t.Errorf("%s imports the fake server", file)
			}
			at, to := slices.Index(order, folder), slices.Index(order, inside)
			test := strings.HasSuffix(file, "_test.go") && (inside == "internal/fakeserver" || inside == folder)
			if at >= 0 && to >= at && !test {
				t.Errorf("%s imports %s, which stands above it", file, name)
			}
		}
	})
}

func TestUnsafeIsInTheFilesOfThatName(t *testing.T) {
	eachFile(t, func(file, _ string, imports []string) {
		if slices.Contains(imports, "unsafe") && !strings.HasPrefix(file, "internal/machine/unsafe") {
			t.Errorf("%s imports unsafe", file)
		}
	})
}
