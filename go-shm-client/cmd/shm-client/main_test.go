package main

import (
	"bytes"
	"context"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fakeserver"
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

func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestPicturesOfEveryFormatAreClassifiedAndUnreadableOnesAreTold(t *testing.T) {
	socket, dir := startFake(t), t.TempDir()
	img := image.NewGray(image.Rect(0, 0, 60, 40))
	for i := range img.Pix {
		img.Pix[i] = 204
	}
	encode := func(name string, write func(*os.File) error) string {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := write(file); err != nil {
			t.Fatal(err)
		}
		return file.Name()
	}
	pngFile := encode("a.png", func(f *os.File) error { return png.Encode(f, img) })
	jpegFile := encode("b.jpeg", func(f *os.File) error { return jpeg.Encode(f, img, nil) })
	gifFile := encode("c.gif", func(f *os.File) error { return gif.Encode(f, img, nil) })
	textFile := encode("d.txt", func(f *os.File) error { _, err := f.WriteString("no picture"); return err })

	code, stdout, stderr := command(t, "classify", "-socket", socket, pngFile, textFile, jpegFile, filepath.Join(dir, "missing.png"), gifFile)
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	if code != 1 || len(lines) != 3 {
		t.Fatalf("code %d\n%s", code, stdout)
	}
	for i, file := range []string{pngFile, jpegFile, gifFile} {
		if !regexp.MustCompile(`^` + regexp.QuoteMeta(file) + ` +bright +80\.\d % +\d+ us$`).MatchString(lines[i]) {
			t.Errorf("%q", lines[i])
		}
	}
	complaints := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if len(complaints) != 2 || !strings.Contains(complaints[0], "read picture "+textFile+": image: unknown format") ||
		!strings.Contains(complaints[1], "missing.png: no such file") {
		t.Errorf("%q", complaints)
	}

	code, stdout, _ = command(t, "classify", pngFile, "--top", "2", "--socket="+socket) // flags behind operands
	if code != 0 || !regexp.MustCompile(`bright +80\.0 % +dark +20\.0 %`).MatchString(stdout) {
		t.Errorf("code %d\n%s", code, stdout)
	}
}

func TestEchoReportsPercentilesAndWhatItDidNotCount(t *testing.T) {
	socket := startFake(t)
	for _, spin := range []string{"0", "50us", "forever"} {
		code, stdout, stderr := command(t, "echo", "-socket", socket, "-n", "200", "-c", "3", "-spin", spin)
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
	code, stdout, _ := command(t, "ping", "-socket", socket, "-n", "2", "-interval", "1ms")
	if code != 0 || strings.Count(stdout, "fakeserver at "+socket) != 2 {
		t.Errorf("code %d\n%s", code, stdout)
	}
	code, stdout, _ = command(t, "info", "-socket", socket)
	if code != 0 || !strings.Contains(stdout, "brightness") || !strings.Contains(stdout, "dark bright") {
		t.Errorf("code %d\n%s", code, stdout)
	}
}

func TestBadUsageIsOneLineAndCode2(t *testing.T) {
	for _, args := range [][]string{
		{"clasify"},
		{"classify"},
		{"classify", "-top", "0", "x.png"},
		{"classify", "-tpo", "1", "x.png"},
		{"echo", "-n", "0"},
		{"echo", "-n", "ten"},
		{"echo", "-n", "5", "-c", "6"},
		{"echo", "-spin", "-1us"},
		{"echo", "-spin", "soon"},
		{"echo", "please"},
		{"ping", "-n", "-1"},
		{"ping", "host"},
		{"info", "all"},
	} {
		code, stdout, stderr := command(t, args...)
		if code != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "--help") {
			t.Errorf("%q: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if code, _, stderr := command(t); code != 2 || !strings.Contains(stderr, "usage:") {
		t.Errorf("nothing: code %d, %q", code, stderr)
	}
}

func TestHelpGoesToStandardOutput(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"classify", "--help"}, {"echo", "-h"}, {"ping", "-help"}, {"info", "--help"}} {
		code, stdout, stderr := command(t, args...)
		if code != 0 || !strings.Contains(stdout, "usage: shm-client") || stderr != "" {
			t.Errorf("%q: code %d, %q", args, code, stderr)
		}
	}
	if _, stdout, _ := command(t, "echo", "--help"); !strings.Contains(stdout, shm.DefaultSocket()) {
		t.Error("the default socket is not told")
	}
}

func TestNoServerIsOneLineAndCode1(t *testing.T) {
	for _, name := range []string{"echo", "ping", "info"} {
		code, _, stderr := command(t, name, "-socket", filepath.Join(t.TempDir(), "nobody"))
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
