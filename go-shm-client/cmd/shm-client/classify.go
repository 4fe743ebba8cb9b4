package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	shm "go-shm-client"
	"go-shm-client/internal/fault"
	"go-shm-client/pictures"
)

var classifySummary = fmt.Sprintf(`Labels pictures: %s, any size,
told apart by their bytes. A picture is turned as its EXIF data says, its middle square is scaled to 32 x 32 pixels, what is
transparent is white, and of an animation the first frame counts. A file has at most %d bytes, a picture %d pixels.
One that cannot be read is a line on standard error, and the others go on. "-" is standard input.`,
	pictures.Formats, pictures.MaxBytes, pictures.MaxPixels)

func classify(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "classify", " FILE...", classifySummary).
		connects(10*time.Second, "each picture, reading and decoding its file included; standard input is waited for")
	top := f.Int("top", 1, "print the `N` likeliest labels; -json has all scores")
	files, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(files) == 0:
		return f.misused("no file named")
	case *top < 1:
		return f.misused("-top %d: not 1 or more", *top)
	}
	client, info, err := f.useDefault(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	width := 0
	for _, file := range files {
		width = max(width, len(printable(file)))
	}
	for _, file := range files {
		result, took, failure := f.classifyFile(ctx, client, info.Classes, file)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case t.stdout.err != nil:
			return t.stdout.err
		case failure != nil:
			t.failed(file, fmt.Errorf("classify %s: %w", printable(file), failure))
			err = errSaid // the others are classified all the same
		case t.json:
			t.object(classified(file, result, info.Classes, took))
		default:
			labels := best(result.Scores, info.Classes, *top)
			fmt.Fprintf(t.stdout, "%-*s  %s  %5d us\n", width, printable(file), labels, took.Microseconds())
		}
	}
	return err
}

// classifyFile times the call alone, without reading the file.
func (f *flags) classifyFile(ctx context.Context, client *shm.Client, classes []string, file string) (result shm.Result, took time.Duration, err error) {
	reading, cancel := f.bound(ctx)
	if file == "-" {
		reading, cancel = context.WithCancel(ctx)
	}
	pixels, err := await(reading, func() ([]byte, error) {
		open, err := f.terminal.open(file)
		if err != nil {
			return nil, err
		}
		defer open.Close()
		return pictures.Read(reading, open)
	})
	cancel()
	if err != nil {
		return shm.Result{}, 0, err
	}
	calling, cancel := f.bound(ctx)
	defer cancel()
	began := time.Now()
	result, err = client.Classify(calling, pixels, shm.WithScores(nil))
	took = time.Since(began)
	if err == nil && (len(result.Scores) != len(classes) || classes[result.Class] != result.Label) {
		err = errors.New("the server was replaced by one with other classes meanwhile: try again")
	}
	return result, took, err
}

type classifiedObject struct {
	File         string            `json:"file"`
	Label        string            `json:"label"`
	Score        number            `json:"score"`
	Scores       map[string]number `json:"scores"`
	Microseconds number            `json:"microseconds"`
}

func classified(file string, result shm.Result, classes []string, took time.Duration) classifiedObject {
	scores := make(map[string]number, len(classes))
	for i, score := range result.Scores {
		scores[classes[i]] = number(score)
	}
	return classifiedObject{file, result.Label, number(result.Score), scores, number(took.Microseconds())}
}

// best is the likeliest labels with their scores.
func best(scores []float32, classes []string, top int) string {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	var labels []string
	for _, class := range order[:min(top, len(order))] {
		labels = append(labels, fmt.Sprintf("%-10s %5.1f %%", fault.Line(classes[class]), 100*scores[class]))
	}
	return strings.Join(labels, "  ")
}
