package main

import (
	"cmp"
	"context"
	"fmt"
	"image"
	_ "image/gif"
	_ "image/jpeg"
	_ "image/png"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	shm "go-shm-client"
)

func classify(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newFlags("classify", " FILE...", "Labels pictures: PNG, JPEG or GIF, any size. The middle square is scaled to 32 x 32 pixels.")
	top := f.Int("top", 1, "print the `N` likeliest labels")
	files, err := f.parse(args, stdout, stderr)
	switch {
	case err != nil:
		return err
	case len(files) == 0:
		return f.misused(stderr, "no file named")
	case *top < 1:
		return f.misused(stderr, "-top %d: not 1 or more", *top)
	}
	client, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	width := len(slices.MaxFunc(files, func(a, b string) int { return cmp.Compare(len(a), len(b)) }))
	for _, file := range files {
		labels, took, fileErr := classifyFile(ctx, client, file, *top, f.timeout)
		if fileErr != nil {
			fmt.Fprintf(stderr, "shm-client: %v\n", fileErr)
			err = errTold // the others are classified all the same
			continue
		}
		fmt.Fprintf(stdout, "%-*s  %s  %5d us\n", width, file, labels, took.Microseconds())
	}
	return err
}

// classifyFile times the call alone: scaling included, reading the file not.
func classifyFile(ctx context.Context, client *shm.Client, file string, top int, timeout time.Duration) (labels string, took time.Duration, err error) {
	img, err := decode(file)
	if err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	result, err := client.ClassifyImage(ctx, img, shm.WithScores(nil))
	took = time.Since(began)
	if err != nil {
		return "", 0, fmt.Errorf("classify %s: %w", file, err)
	}
	return best(result.Scores, client.Info().Classes, top), took, nil
}

func decode(file string) (image.Image, error) {
	open, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	img, _, err := image.Decode(open)
	if err != nil {
		return nil, fmt.Errorf("read picture %s: %w", file, err)
	}
	return img, nil
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
		labels = append(labels, fmt.Sprintf("%-10s %5.1f %%", classes[class], 100*scores[class]))
	}
	return strings.Join(labels, "  ")
}
