package measure

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Highest is the longest latency that is told apart; longer ones count as this one.
const Highest = time.Minute

// recorder holds one caller's samples. It is not shared while calls are made.
type recorder struct {
	latency    *hdrhistogram.Histogram
	count      int64
	errors     int64
	firstError error
	batches    map[int]int64 // answers by the size of the batch that they came from
}

func newRecorder() *recorder { return &recorder{latency: newHistogram(), batches: map[int]int64{}} }

// newRecorders makes one for each caller. They take 0.2 MB each, so they are made before the clock starts.
func newRecorders(callers int) []*recorder {
	all := make([]*recorder, callers)
	for i := range all {
		all[i] = newRecorder()
	}
	return all
}

// newHistogram keeps nanoseconds to three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(Highest), 3)
}

func record(h *hdrhistogram.Histogram, took time.Duration) {
	_ = h.RecordValue(max(1, min(int64(took), int64(Highest)))) // fails only outside of these bounds
}

// add records a call that took as long, or failed.
func (r *recorder) add(took time.Duration, answer answer, err error) {
	if err != nil {
		r.errors++
		if r.firstError == nil {
			r.firstError = err
		}
		return
	}
	r.count++
	record(r.latency, took)
	if answer.batch > 0 {
		r.batches[answer.batch]++
	}
}

// merge adds up what several callers recorded.
func merge(recorders []*recorder) *recorder {
	all := newRecorder()
	for _, r := range recorders {
		all.latency.Merge(r.latency)
		all.count += r.count
		all.errors += r.errors
		if all.firstError == nil {
			all.firstError = r.firstError
		}
		for size, count := range r.batches {
			all.batches[size] += count
		}
	}
	return all
}
