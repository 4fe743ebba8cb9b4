package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

func echo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newFlags("echo", "", "Measures echoes of 3072 bytes: written by us, read by the server, whose checksum is verified. Each payload is new.")
	classify := f.Bool("classify", false, "have each payload classified instead: the same way, and the model")
	n := f.Int("n", 10000, "`echoes` to measure")
	c := f.Int("c", 1, "`goroutines` that call at a time")
	spin := spinFlag(shm.DefaultSpin)
	f.Var(&spin, "spin", "poll this `time` before sleeping: 100us, 0, forever")
	operands, err := f.parse(args, stdout, stderr)
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return f.misused(stderr, "unexpected argument %q", operands[0])
	case *n < 1 || *c < 1 || *n > math.MaxInt32 || *c > *n:
		return f.misused(stderr, "-n %d -c %d: need 1 <= c <= n < 2^31", *n, *c)
	}
	client, err := f.dial(ctx, shm.WithSpin(time.Duration(spin)))
	if err != nil {
		return err
	}
	defer client.Close()

	call, what := echoOnce, "echoes of %d bytes, every checksum verified"
	if *classify {
		call, what = classifyOnce, "classifications of %d bytes"
	}
	warmUp := min(10000, 1000+*n/10) // of caches, clocks and the spin budget of both sides
	if _, err := measure(ctx, client, call, warmUp, min(*c, warmUp)); err != nil {
		return err
	}
	before := client.Stats()
	began := time.Now()
	samples, err := measure(ctx, client, call, *n, *c)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after := client.Stats()
	fmt.Fprintf(stdout, "%d "+what+", %d at a time, spin %s; %d more to warm up, not counted\n",
		*n, shm.PixelBytes, *c, spin.String(), warmUp)
	fmt.Fprintf(stdout, "latency  %s\n", percentiles(samples))
	fmt.Fprintf(stdout, "rate     %.0f/s, making and verifying payloads included\n", float64(*n)/took.Seconds())
	fmt.Fprintf(stdout, "calls    %d polled until answered, %d slept; bells %d sent, %d received\n",
		after.SpinHits-before.SpinHits, after.Parks-before.Parks, after.BellsSent-before.BellsSent, after.BellsReceived-before.BellsReceived)
	return nil
}

// caller makes one call and checks what it can of the answer.
type caller func(ctx context.Context, client *shm.Client, pixels []byte) (took time.Duration, err error)

// measure shares n calls among c goroutines and returns every one's latency.
func measure(ctx context.Context, client *shm.Client, call caller, n, c int) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	samples := make([]time.Duration, n)
	var all sync.WaitGroup
	for worker := range c {
		mine := samples[worker*n/c : (worker+1)*n/c]
		all.Add(1)
		go func() {
			defer all.Done()
			if err := fill(ctx, client, call, mine); err != nil {
				cancel(err)
			}
		}()
	}
	all.Wait()
	return samples, context.Cause(ctx)
}

// fill fills samples with latencies, of calls with a new payload each.
func fill(ctx context.Context, client *shm.Client, call caller, samples []time.Duration) (err error) {
	source := rand.NewPCG(rand.Uint64(), rand.Uint64())
	pixels := make([]byte, shm.PixelBytes)
	for i := range samples {
		for at := 0; at < len(pixels); at += 8 {
			binary.LittleEndian.PutUint64(pixels[at:], source.Uint64())
		}
		if samples[i], err = call(ctx, client, pixels); err != nil {
			return err
		}
	}
	return nil
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
