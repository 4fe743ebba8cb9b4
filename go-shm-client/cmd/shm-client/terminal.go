package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"unicode"

	"go-shm-client/internal/fault"
)

// A terminal is where a command reads and writes.
type terminal struct {
	stdin  io.Reader
	stdout *output
	stderr io.Writer
	json   bool
}

// An output remembers that it could not be written: what else there is to print is then not worth computing.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.Writer.Write(p)
	o.err = err
	return n, err
}

// object prints v as a line of JSON.
func (t *terminal) object(v any) {
	encoder := json.NewEncoder(t.stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil && t.stdout.err == nil {
		t.stdout.err = err
	}
}

// failed says in one line what failed; with -json, as an object too. file is "" where it is about none.
func (t *terminal) failed(file string, err error) {
	text := fault.Line(err.Error())
	if t.json {
		t.object(struct {
			File  string `json:"file,omitempty"`
			Error string `json:"error"`
		}{file, text})
	}
	fmt.Fprintf(t.stderr, "shm-client: %s\n", text)
}

// A number is one that JSON can say: NaN and the infinite ones are null.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(n), 'g', -1, 32), nil
}

// printable is a file's name as it can stand in a line.
func printable(name string) string {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// await runs work, and leaves it behind when ctx ends: opening a FIFO and reading a terminal know no context.
func await[T any](ctx context.Context, work func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := work()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// open opens a picture to be read; "-" is standard input.
func (t *terminal) open(file string) (io.ReadCloser, error) {
	switch file {
	case "-":
		return io.NopCloser(t.stdin), nil
	case "":
		return nil, errors.New("an empty file name")
	}
	return os.Open(file)
}
