package main

import (
	"runtime"

	"github.com/HdrHistogram/hdrhistogram-go"

	shm "go-shm-client"

	"sidecar-bench/internal/measure"
	"sidecar-bench/internal/transport"
)

// report is the JSON object on stdout. Histograms are nanoseconds in HdrHistogram's compressed V2 encoding, base64.
type report struct {
	Transport  string  `json:"transport"`
	Op         string  `json:"op"`
	Spin       string  `json:"spin,omitempty"`
	Callers    int     `json:"callers"`
	Rate       float64 `json:"rate"`
	Seed       uint64  `json:"seed"`
	WarmUp     int     `json:"warmup"`
	Go         string  `json:"go"`
	Processors int     `json:"processors"`

	Histogram    string  `json:"histogram"`
	Count        int64   `json:"count"`
	Errors       int64   `json:"errors"`
	FirstError   string  `json:"first_error,omitempty"`
	InTime       int64   `json:"in_time"`
	Unfinished   int64   `json:"unfinished"`
	Lateness     string  `json:"lateness,omitempty"`
	Pieces       string  `json:"pieces,omitempty"`
	BytesChecked int64   `json:"bytes_checked,omitempty"`
	WallSeconds  float64 `json:"wall_s"`

	Client           measure.Usage     `json:"client"`
	ServerCPUSeconds float64           `json:"server_cpu_s"`
	Stats            map[string]uint64 `json:"stats,omitempty"`
	Batches          map[int]int64     `json:"batches,omitempty"`
}

// reading is every counter at one moment.
type reading struct {
	client measure.Usage
	server float64 // CPU seconds
	stats  map[string]uint64
}

// begin reads the counters before a run: our own last, so that what reading costs us does not count.
func begin(o options, t transport.Transport) (r reading, err error) {
	r.stats = t.Stats()
	if o.server != 0 {
		if r.server, err = measure.CPUSeconds(o.server); err != nil {
			return r, err
		}
	}
	r.client, err = measure.Own()
	return r, err
}

// end reads them after a run, in the opposite order.
func end(o options, t transport.Transport) (r reading, err error) {
	if r.client, err = measure.Own(); err == nil && o.server != 0 {
		r.server, err = measure.CPUSeconds(o.server)
	}
	r.stats = t.Stats()
	return r, err
}

func newReport(o options, result measure.Result, before, after reading) (report, error) {
	r := report{
		Transport: o.transport, Op: o.op, Callers: o.callers, Rate: o.rate, Seed: o.seed, WarmUp: o.warmUp,
		Go: runtime.Version(), Processors: runtime.NumCPU(),
		Count: result.Count, Errors: result.Errors, InTime: result.InTime, Unfinished: result.Unfinished,
		WallSeconds: result.Wall.Seconds(),
		Client:      after.client.Since(before.client), ServerCPUSeconds: after.server - before.server, Batches: result.Batches,
	}
	if o.transport == "shm" {
		r.Spin = o.spin.String()
		r.Stats = map[string]uint64{}
		for name, value := range after.stats {
			r.Stats[name] = value - before.stats[name]
		}
	}
	if o.op == "echo" || o.op == "classify" {
		r.BytesChecked = result.Count * shm.PixelBytes
	}
	if o.op == "call" {
		r.BytesChecked = result.Count * int64(o.bytes)
	}
	if result.FirstError != nil {
		r.FirstError = result.FirstError.Error()
	}
	var err error
	if r.Histogram, err = encode(result.Latency); err == nil && result.Lateness != nil {
		r.Lateness, err = encode(result.Lateness)
	}
	if err == nil && result.Pieces != nil {
		r.Pieces, err = encode(result.Pieces)
	}
	return r, err
}

func encode(h *hdrhistogram.Histogram) (string, error) {
	bytes, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	return string(bytes), err
}
