package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// percentiles sorts samples and shows how they are spread. A mean would hide the tail.
func percentiles(samples []time.Duration) string {
	slices.Sort(samples)
	var parts []string
	for _, p := range []struct {
		name     string
		permille int
	}{{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p99.9", 999}, {"max", 1000}} {
		parts = append(parts, fmt.Sprintf("%s %.2f us", p.name, float64(percentile(samples, p.permille))/1e3))
	}
	return strings.Join(parts, "  ")
}

// percentile is the smallest sample that this share of the sorted samples does not exceed: a value that was measured.
func percentile(sorted []time.Duration, permille int) time.Duration {
	rank := (len(sorted)*permille + 999) / 1000
	return sorted[max(1, rank)-1]
}
