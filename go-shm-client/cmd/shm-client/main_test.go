//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/pictures"
)

func startFake(t *testing.T) (socket string) {
	t.Helper()
	f := &fakeserver.Listener{
		Path:      filepath.Join(t.TempDir(), "sock"),
		Slots:     4,
		Behaviour: func() fakeserver.Behaviour { return fakeserver.Behaviour{} },
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f.Path
}

// shmClient runs the program, with nothing on its standard input.
func shmClient(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &terminal{stdin: strings.NewReader(""), stdout: &output{Writer: &out}, stderr: &errs})
	return code, out.String(), errs.String()
}

func TestEchoReportsPercentilesAndWhatItDidNotCount(t *testing.T) {
	socket := startFake(t)
	for _, spin := range []string{"0", "50us", "forever"} {
		code, stdout, stderr := shmClient(t, "echo", "-socket", socket, "-n", "200", "-c", "3", "-spin", spin)
		if code != 0 || stderr != "" {
			t.Fatalf("code %d, %s", code, stderr)
		}
		for _, want := range []string{"200 echoes of 3072 bytes", "3 at a time", "to warm up, not counted", "p50 ", "p90 ", "p99 ", "p99.9 ", "max ", "rate ", "bells"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("spin %s: no %q in\n%s", spin, want, stdout)
			}
		}
	}
}

func TestPingAndInfo(t *testing.T) {
	socket := startFake(t)
	code, stdout, _ := shmClient(t, "ping", "-socket", socket, "-n", "2", "-interval", "1ms")
	if code != 0 || strings.Count(stdout, "fakeserver at "+socket) != 2 {
		t.Errorf("code %d\n%s", code, stdout)
	}
	code, stdout, _ = shmClient(t, "info", "-socket", socket)
	if code != 0 || !strings.Contains(stdout, "brightness") || !strings.Contains(stdout, "dark bright") {
		t.Errorf("code %d\n%s", code, stdout)
	}
}

func TestJSONIsOneObjectALineAlsoForWhatFailed(t *testing.T) {
	socket := startFake(t)
	nobody := filepath.Join(t.TempDir(), "nobody")
	for _, test := range []struct {
		line  string
		code  int
		lines int
		field string
	}{
		{"echo -json -n 200 -socket " + socket, 0, 1, "microseconds"},
		{"ping -json -n 3 -interval 0 -socket " + socket, 0, 3, "microseconds"},
		{"info -json -socket " + socket, 0, 1, "classes"},
		{"version -json", 0, 1, "layout"},
		{"echo -json -socket " + nobody, 1, 1, "error"},
		{"ping -json -socket " + nobody, 1, 1, "error"},
		{"info -json -socket " + nobody, 1, 1, "error"},
		{"models -json -socket " + nobody, 1, 1, "error"},
		{"prompt -json hello -socket " + nobody, 1, 1, "error"},
		{"classify -json a b -socket " + nobody, 1, 1, "error"},
		{"classify -json a b -socket " + socket, 1, 2, "error"},
	} {
		code, stdout, _ := shmClient(t, strings.Fields(test.line)...)
		lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
		if code != test.code || len(lines) != test.lines {
			t.Errorf("%s: code %d, %d lines", test.line, code, len(lines))
		}
		for _, line := range lines {
			object := map[string]any{}
			if err := json.Unmarshal([]byte(line), &object); err != nil || object[test.field] == nil {
				t.Errorf("%s: %q, %v", test.line, line, err)
			}
		}
	}
}

func TestWhatIsNoFiniteNumberIsNullInJSON(t *testing.T) {
	said, err := json.Marshal([]number{number(math.NaN()), number(math.Inf(-1)), 0.5})
	if string(said) != "[null,null,0.5]" {
		t.Errorf("%s, %v", said, err)
	}
}

func TestAStandardOutputThatIsFullIsSaidAndClosedIsNot(t *testing.T) {
	for failure, want := range map[error]string{syscall.ENOSPC: "no space left", syscall.EPIPE: ""} {
		var errs bytes.Buffer
		broken := &terminal{stdout: &output{Writer: failing{failure}}, stderr: &errs}
		code := run(context.Background(), []string{"ping", "-n", "1000000000", "-interval", "0", "-socket", startFake(t)}, broken)
		if code != 1 || !strings.Contains(errs.String(), want) || (want == "") != (errs.Len() == 0) {
			t.Errorf("%v: code %d, %q", failure, code, errs.String())
		}
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

func TestBadUsageIsOneLineThatNamesTheFlagAndCode2(t *testing.T) {
	for _, line := range []string{
		"clasify", "help clasify", "help ping info", "version now",
		"classify", "classify -top 0 x.png", "classify -top -1 x.png", "classify -tpo 1 x.png", "classify -top 99999999999999999999 x",
		"classify -x.png", "classify x.png -timeout 0s", "classify x.png -timeout -1s", "classify x.png -timeout soon",
		"classify x.png -timeout 9999999999h", "classify -socket= x.png", "classify -timeout", "info -server-user -1", "info -server-user root",
		"prompt", "prompt -steps 0 hello", "prompt -steps -1 hello", "prompt -steps 4294967296 hello",
		"prompt -temperature -1 hello", "prompt -temperature NaN hello", "prompt -temperature Inf hello", "prompt -temperature 1e39 hello",
		"prompt -top-k -1 hello", "prompt -top-k 4294967296 hello", "prompt -seed -1 hello", "prompt -seed 18446744073709551616 hello",
		"prompt -reply-bytes 0 hello", "prompt -reply-bytes -1 hello", "prompt -reply-bytes 16777217 hello",
		"echo -n 0", "echo -n -5", "echo -n ten", "echo -n 2147483647", "echo -n 5 -c 6", "echo -c 0", "echo -spin -1us", "echo -spin soon",
		"echo -spin NaN", "echo please", "ping -n -1", "ping -n 0", "ping -interval -1s", "ping host", "info all", "info -json=perhaps",
	} {
		args := strings.Fields(line)
		code, stdout, stderr := shmClient(t, args...)
		if code != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "help") {
			t.Errorf("%s: code %d, %q, %q", line, code, stdout, stderr)
		}
		if at := strings.Index(line, " -"); at > 0 && !strings.Contains(stderr, strings.FieldsFunc(line[at+1:], func(r rune) bool { return r == ' ' || r == '=' })[0]) {
			t.Errorf("%s: the flag is not named: %q", line, stderr)
		}
	}
	if code, _, stderr := shmClient(t); code != 2 || !strings.Contains(stderr, "usage:") {
		t.Errorf("nothing: code %d, %q", code, stderr)
	}
}

func TestWhatFollowsTwoDashesIsAnOperandAndFlagsMayStandBehindOperands(t *testing.T) {
	for _, test := range []struct{ args, operands string }{
		{"a -top 3 b", "a b"},
		{"-- -top 3 b", "-top 3 b"},
		{"a -top 3 -- -b -- c", "a -b -- c"},
		{"-top=3 --json - -- -", "- -"},
		{"-socket -- a --top 3", "a"}, // the value of a flag, whatever it looks like
	} {
		f := newFlags(&terminal{}, "classify", "", "").connects(time.Second, "")
		top := f.Int("top", 1, "")
		operands, err := f.parse(strings.Fields(test.args))
		if err != nil || strings.Join(operands, " ") != test.operands {
			t.Errorf("%s: %q, %v", test.args, operands, err)
		}
		if (*top == 3) != !strings.HasPrefix(test.args, "--") {
			t.Errorf("%s: -top %d", test.args, *top)
		}
	}
}

func TestHelpGoesToStandardOutput(t *testing.T) {
	all := []string{"--help", "-h", "help", "help help"}
	for name := range commands {
		all = append(all, name+" --help", name+" -h", "help "+name, name+" operand -help")
	}
	for _, line := range all {
		code, stdout, stderr := shmClient(t, strings.Fields(line)...)
		if code != 0 || !strings.Contains(stdout, "usage: shm-client") || stderr != "" {
			t.Errorf("%s: code %d, %q", line, code, stderr)
		}
	}
	if _, stdout, _ := shmClient(t, "echo", "--help"); !strings.Contains(stdout, shm.DefaultSocket()) {
		t.Error("the default socket is not said")
	}
	if _, stdout, _ := shmClient(t, "classify", "--help"); !strings.Contains(stdout, pictures.Formats) {
		t.Error("the formats are not said")
	}
}

func TestTheVersionIsThatOfTheServersPackage(t *testing.T) {
	project, err := os.ReadFile("../../../pyproject.toml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(project), "\nversion = \""+programVersion+"\"\n") {
		t.Errorf("pyproject.toml does not say version %s", programVersion)
	}
	for _, name := range []string{"version", "-version", "--version"} {
		code, stdout, stderr := shmClient(t, name)
		if code != 0 || !strings.HasPrefix(stdout, "shm-client "+programVersion+", layout 2.") || stderr != "" {
			t.Errorf("%s: code %d, %q, %q", name, code, stdout, stderr)
		}
	}
}

func TestNoServerIsOneLineAndCode1(t *testing.T) {
	for _, name := range []string{"echo", "ping", "info"} {
		code, _, stderr := shmClient(t, name, "-socket", filepath.Join(t.TempDir(), "nobody"))
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "is `shm-server serve` running?") {
			t.Errorf("%s: code %d, %q", name, code, stderr)
		}
	}
}

func TestPercentilesAreMeasuredValues(t *testing.T) {
	samples := make([]time.Duration, 1000)
	for i := range samples {
		samples[len(samples)-1-i] = time.Duration(i+1) * time.Microsecond
	}
	if got := percentiles(samples); got != "p50 500.00 us  p90 900.00 us  p99 990.00 us  p99.9 999.00 us  max 1000.00 us" {
		t.Error(got)
	}
	if got := percentiles([]time.Duration{time.Microsecond}); !strings.HasPrefix(got, "p50 1.00 us") {
		t.Error(got)
	}
}
