package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	shm "go-shm-client"
)

// spinFlag is a duration, or "forever".
type spinFlag time.Duration

func (s *spinFlag) String() string {
	if time.Duration(*s) == shm.SpinForever {
		return "forever"
	}
	return time.Duration(*s).String()
}

func (s *spinFlag) Set(text string) error {
	if text == "forever" {
		*s = spinFlag(shm.SpinForever)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("not a time like 100us, 0 or forever")
	}
	*s = spinFlag(d)
	return nil
}

// The most that is measured at a time: a gigabyte of samples, and as many calls in flight as a lane has slots.
const (
	mostEchoes     = 1 << 27
	mostGoroutines = 1 << 16
)

func echo(ctx context.Context, args []string, t *terminal) error {
	f := newFlags(t, "echo", "", "Measures echoes of 3072 bytes: written by us, read by the server, whose checksum is verified. Each payload is new.").
		connects(10*time.Second, "each echo, which may take up to twice as long")
	classify := f.Bool("classify", false, "have each payload classified instead: the same way, and the model")
	n := f.Int("n", 10000, "`echoes` to measure")
	c := f.Int("c", 1, "`goroutines` that call at a time")
	spin := spinFlag(shm.DefaultSpin)
	f.Var(&spin, "spin", "poll this `time` before sleeping: 100us, 0, forever")
	operands, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused("unexpected argument %q", operands[0])
	case *n < 1 || *n > mostEchoes:
		return f.misused("-n %d: not 1 to %d", *n, mostEchoes)
	case *c < 1 || *c > min(*n, mostGoroutines):
		return f.misused("-c %d: not 1 to %d, and at most -n", *c, mostGoroutines)
	}
	if f.options.Spin = time.Duration(spin); spin == 0 {
		f.options.Spin = shm.NoSpin
	}
	client, _, err := f.useDefault(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	m := measurement{f, client, echoOnce}
	what := "echoes of %d bytes, every checksum verified"
	if *classify {
		m.call, what = classifyOnce, "classifications of %d bytes"
	}
	warmUp := min(10000, 1000+*n/10) // of caches, clocks and the spin budget of both sides
	if _, err := m.measure(ctx, warmUp, min(*c, warmUp)); err != nil {
		return err
	}
	before := client.Stats()
	began := time.Now()
	samples, err := m.measure(ctx, *n, *c)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after := client.Stats()
	if t.json {
		t.object(echoed(samples, *c, spin.String(), took, before, after))
		return nil
	}
	fmt.Fprintf(t.stdout, "%d "+what+", %d at a time, spin %s; %d more to warm up, not counted\n",
		*n, shm.PixelBytes, *c, spin.String(), warmUp)
	fmt.Fprintf(t.stdout, "latency  %s\n", percentiles(samples))
	fmt.Fprintf(t.stdout, "rate     %.0f/s, making and verifying payloads included\n", float64(*n)/took.Seconds())
	fmt.Fprintf(t.stdout, "calls    %d polled until answered, %d slept; bells %d sent, %d received\n",
		after.SpinHits-before.SpinHits, after.Parks-before.Parks, after.BellsSent-before.BellsSent, after.BellsReceived-before.BellsReceived)
	return nil
}

type echoObject struct {
	Calls         int               `json:"calls"`
	Bytes         int               `json:"bytes"`
	AtATime       int               `json:"at_a_time"`
	Spin          string            `json:"spin"`
	Microseconds  map[string]number `json:"microseconds"`
	PerSecond     number            `json:"calls_per_s"`
	Polled        uint64            `json:"polled_until_answered"`
	Slept         uint64            `json:"slept"`
	BellsSent     uint64            `json:"bells_sent"`
	BellsReceived uint64            `json:"bells_received"`
}

func echoed(samples []time.Duration, c int, spin string, took time.Duration, before, after shm.Stats) echoObject {
	spread := map[string]number{}
	for _, p := range spreads(samples) {
		spread[p.name] = number(float64(p.value) / 1e3)
	}
	return echoObject{
		len(samples), shm.PixelBytes, c, spin, spread, number(float64(len(samples)) / took.Seconds()), after.SpinHits - before.SpinHits,
		after.Parks - before.Parks, after.BellsSent - before.BellsSent, after.BellsReceived - before.BellsReceived,
	}
}

// caller makes one call and checks what it can of the answer.
type caller func(ctx context.Context, client *shm.Client, pixels []byte) (took time.Duration, err error)

// A measurement makes calls and times each.
type measurement struct {
	*flags
	client *shm.Client
	call   caller
}

// measure shares n calls among c goroutines and returns every one's latency.
func (m *measurement) measure(ctx context.Context, n, c int) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	samples := make([]time.Duration, n)
	var all sync.WaitGroup
	for worker := range c {
		mine := samples[worker*n/c : (worker+1)*n/c]
		all.Go(func() {
			if err := m.fill(ctx, mine); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return samples, context.Cause(ctx)
}

// fill fills samples with latencies, of calls with a new payload each.
func (m *measurement) fill(ctx context.Context, samples []time.Duration) error {
	source := rand.NewPCG(rand.Uint64(), rand.Uint64())
	pixels := make([]byte, shm.PixelBytes)
	for len(samples) > 0 {
		done, err := m.fillFor(ctx, samples, source, pixels)
		if err != nil {
			return err
		}
		samples = samples[done:]
	}
	return nil
}

// fillFor makes calls for -timeout, in a context that is cancelled after twice that. One for each call, or one with a deadline,
// which is told to the server, would be measured with them.
func (m *measurement) fillFor(ctx context.Context, samples []time.Duration, source *rand.PCG, pixels []byte) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(2*min(m.timeout, math.MaxInt64/2), func() { cancel(m.late()) }).Stop()
	began := time.Now()
	for i := range samples {
		for at := 0; at < len(pixels); at += 8 {
			binary.LittleEndian.PutUint64(pixels[at:], source.Uint64())
		}
		var err error
		if samples[i], err = m.call(ctx, m.client, pixels); err != nil {
			return i, err
		}
		if time.Since(began) > m.timeout {
			return i + 1, nil
		}
	}
	return len(samples), nil
}

// echoOnce measures the call alone, which copies the payload into its slot.
func echoOnce(ctx context.Context, client *shm.Client, pixels []byte) (time.Duration, error) {
	began := time.Now()
	result, err := client.Echo(ctx, pixels)
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("echo: %w", err)
	}
	if want := shm.Checksum(pixels); result.Checksum != want {
		return 0, fmt.Errorf("echo: server's checksum is %#x, not %#x", result.Checksum, want)
	}
	return took, nil
}

func classifyOnce(ctx context.Context, client *shm.Client, pixels []byte) (time.Duration, error) {
	began := time.Now()
	_, err := client.Classify(ctx, pixels)
	if err != nil {
		return 0, fmt.Errorf("classify: %w", err)
	}
	return time.Since(began), nil
}
