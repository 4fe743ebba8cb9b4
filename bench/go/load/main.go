// Command load calls one server over one transport and prints what it measured as one JSON object.
//
//	load -transport shm -address /tmp/shm-server.sock -op echo -spin forever -seconds 2
//	load -transport uds -address /tmp/imageserver.sock -op classify -pictures p.bin -labels p.json -rate 2000 -seconds 5
//
// Every call sends another payload, and every answer is checked outside of what is timed. The calls of the warm-up do
// not count. bench/run.py starts it; by hand it is good for a profile.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"sidecar-bench/internal/measure"
	"sidecar-bench/internal/payload"
	"sidecar-bench/internal/transport"
)

func main() {
	options, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(context.Background(), options) // a context that nobody can cancel is the cheapest for all transports
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "load: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dialling, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	t, err := transport.Dial(dialling, o.transport, o.address, time.Duration(o.spin), o.slots)
	if err != nil {
		return err
	}
	defer t.Close()

	calls, err := work(o, t)
	if err != nil {
		return err
	}
	if warm := calls.Closed(ctx, o.warmUp, 0); o.warmUp > 0 && warm.FirstError != nil {
		return fmt.Errorf("warm-up: %w", warm.FirstError)
	}
	runtime.GC()
	lines := lines(os.Stdin)
	if o.hold {
		fmt.Println("ready")
		if _, more := <-lines; !more {
			return errors.New("hold: nobody lets us begin: the end of stdin")
		}
	}
	if o.untilLine {
		run, stop := calls.(measure.Run), new(atomic.Bool)
		run.Stop = stop
		calls = run
		go func() { <-lines; stop.Store(true) }()
	}
	r, err := measured(ctx, o, t, calls)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	if o.hold {
		<-lines // whoever counts system calls stops before we end
	}
	if r.Errors > 0 {
		return fmt.Errorf("%d of %d calls failed, the first one: %s", r.Errors, r.Errors+r.Count, r.FirstError)
	}
	return nil
}

// lines are those of r; the channel is closed at its end.
func lines(r io.Reader) <-chan struct{} {
	all := make(chan struct{})
	go func() {
		defer close(all)
		for each := bufio.NewScanner(r); each.Scan(); {
			all <- struct{}{}
		}
	}()
	return all
}

// loop is a way to make calls: measure.Run or measure.Prompts.
type loop interface {
	Closed(ctx context.Context, calls int, lasting time.Duration) measure.Result
}

// work is what is called, with which payloads.
func work(o options, t transport.Transport) (loop, error) {
	run := measure.Run{Transport: t, Op: measure.Echo, Callers: o.callers}
	if o.core >= 0 {
		run.Cores = []int{o.core}
	}
	var err error
	switch o.op {
	case "classify":
		run.Op = measure.Classify
		run.Table, err = payload.Pictures(o.pictures, o.labels)
	case "call":
		run.Op, run.Table = measure.Call(o.model), payload.Nothing()
		if o.bytes > 0 {
			run.Table = payload.Rows(o.seed, o.bytes)
		}
	case "echo-prompt":
		run.Op, run.Table = measure.EchoPrompt, payload.Texts(o.seed)
	case "prompt", "stamped":
		prompts := measure.Prompts{Transport: t.(transport.Prompter), Stamped: o.op == "stamped", Pause: o.pause}
		prompts.Table, err = payload.Prompts(o.prompts)
		return prompts, err
	default:
		run.Table = payload.Random(o.seed)
	}
	return run, err
}

// measured makes the calls, between two readings of all counters.
func measured(ctx context.Context, o options, t transport.Transport, calls loop) (report, error) {
	before, err := begin(o, t)
	if err != nil {
		return report{}, err
	}
	var result measure.Result
	switch {
	case o.op == "idle":
		result = measure.Nothing(ctx, o.lasting())
	case o.rate > 0:
		result = calls.(measure.Run).Open(ctx, o.rate, o.lasting())
	default:
		result = calls.Closed(ctx, o.calls, o.lasting())
	}
	after, err := end(o, t)
	if err != nil {
		return report{}, err
	}
	return newReport(o, result, before, after)
}
