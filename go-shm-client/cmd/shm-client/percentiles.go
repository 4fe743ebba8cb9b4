package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A spread is a percentile.
type spread struct {
	name  string
	value time.Duration
}

// percentiles sorts samples and shows how they are spread. A mean would hide the tail.
func percentiles(samples []time.Duration) string {
	var parts []string
	for _, p := range spreads(samples) {
		parts = append(parts, fmt.Sprintf("%s %.2f us", p.name, float64(p.value)/1e3))
	}
	return strings.Join(parts, "  ")
}

func spreads(samples []time.Duration) (all []spread) {
	slices.Sort(samples)
	for _, p := range []struct {
		name     string
		permille int
	}{{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p99.9", 999}, {"max", 1000}} {
		all = append(all, spread{p.name, percentile(samples, p.permille)})
	}
	return all
}

// percentile is the smallest sample that this share of the sorted samples does not exceed: a value that was measured.
func percentile(sorted []time.Duration, permille int) time.Duration {
	rank := (len(sorted)*permille + 999) / 1000
	return sorted[max(1, rank)-1]
}
