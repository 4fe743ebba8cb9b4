//go:build linux

package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	shm "go-shm-client"
	"go-shm-client/internal/fakeserver"
)

// startListing is a server that has these models, says so, and gives no session.
func startListing(t *testing.T, models ...shm.ModelInfo) (socket string) {
	t.Helper()
	f := &fakeserver.Listener{
		Path:  filepath.Join(t.TempDir(), "sock"),
		Asked: func(string) []byte { return fakeserver.AnswerMessage(models...) },
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f.Path
}

func TestTheModelsAreATableOrAnObjectALine(t *testing.T) {
	spoilt := copies.Signature
	spoilt.Name, spoilt.Platform = "cop\nies\t2\x1b[2J", "p\tq"
	socket := startListing(t,
		shm.ModelInfo{Signature: reversed.Signature, Protocol: "call", State: "ready"},
		shm.ModelInfo{Signature: spoilt, Protocol: "call", State: "starting"},
		shm.ModelInfo{Signature: fakeserver.Scribe.Signature, Protocol: "stream", State: "ready"},
	)
	code, stdout, stderr := shmClient(t, "models", "-socket", socket)
	want := []string{ // each column's width aside
		"NAME PROTOCOL STATE VERSION PLATFORM INPUTS OUTPUTS",
		"reversed call ready 3 x FP32[3] y FP32[3]",
		"cop ies 2 [2J call starting p q ids INT64[-1,2], mask BOOL[-1], h FP16[2] ids_ INT64[-1,2], mask_ BOOL[-1], h_ FP16[2]",
		"scribe stream ready prompt UINT8[-1] text UINT8[-1]",
	}
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	same := func(line, want string) bool { return strings.Join(strings.Fields(line), " ") == want }
	if code != 0 || stderr != "" || !slices.EqualFunc(lines, want, same) {
		t.Errorf("code %d, %q\n%s", code, stderr, stdout)
	}
	at := strings.Index(lines[0], "PROTOCOL")
	if !strings.HasPrefix(lines[1][at:], "call") || !strings.HasPrefix(lines[3][at:], "stream") {
		t.Errorf("the columns are not one below the other:\n%s", stdout)
	}

	code, stdout, _ = shmClient(t, "models", "-json", "-socket", socket)
	lines = strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	if code != 0 || len(lines) != 3 {
		t.Fatalf("code %d\n%s", code, stdout)
	}
	const object = `{"name":"reversed","version":"3","platform":"","inputs":[{"name":"x","datatype":"FP32","shape":[3]}],` +
		`"outputs":[{"name":"y","datatype":"FP32","shape":[3],"labels":["a","b","c"]}],"protocol":"call","state":"ready"}`
	if lines[0] != object {
		t.Error(lines[0])
	}
	var said shm.ModelInfo
	if err := json.Unmarshal([]byte(lines[1]), &said); err != nil || said.Name != spoilt.Name || said.State != "starting" {
		t.Errorf("%+v, %v", said, err)
	}
}

func TestAServerWithoutModelsHasAnEmptyTable(t *testing.T) {
	socket := startListing(t)
	if code, stdout, _ := shmClient(t, "models", "-socket", socket); code != 0 || strings.Count(stdout, "\n") != 1 || !strings.HasPrefix(stdout, "NAME ") {
		t.Errorf("code %d, %q", code, stdout)
	}
	if code, stdout, _ := shmClient(t, "models", "-json", "-socket", socket); code != 0 || stdout != "" {
		t.Errorf("code %d, %q", code, stdout)
	}
}

func TestModelsThatCanNotBeListedAreOneLine(t *testing.T) {
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, `unexpected argument "iris"`, []string{"-socket", "/nowhere", "iris"}},
		{1, "is `shm-server serve` running?", []string{"-socket", "/nowhere"}},
		{1, `unknown question "models"`, []string{"-socket", startFake(t)}},
		{1, `broke the protocol: answer: model 0: "reversed": protocol ""`, []string{"-socket", startListing(t, shm.ModelInfo{Signature: reversed.Signature})}},
	} {
		code, stdout, stderr := shmClient(t, append([]string{"models"}, c.args...)...)
		if code != c.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: code %d, %q, %q, want %q", c.args, code, stdout, stderr, c.says)
		}
	}
}
