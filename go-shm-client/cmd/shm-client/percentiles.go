package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// percentiles sorts samples and shows how they are spread. A mean would hide the tail.
func percentiles(samples []time.Duration) string {
	slices.Sort(samples)
	var parts []string
	for _, p := range []float64{50, 90, 99, 99.9, 100} {
		name := fmt.Sprintf("p%g", p)
		if p == 100 {
			name = "max"
		}
		parts = append(parts, fmt.Sprintf("%s %.2f us", name, float64(percentile(samples, p))/1e3))
	}
	return strings.Join(parts, "  ")
}

// percentile is the smallest sample that p percent of the sorted samples do not exceed: a value that was measured.
func percentile(sorted []time.Duration, p float64) time.Duration {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(1, rank)-1]
}
