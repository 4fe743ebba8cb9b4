package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"

	shm "go-shm-client"
)

const ops = "echo, classify or idle (stay connected and do nothing), call (a model gives a row back), echo-prompt (200 bytes of text), prompt, " +
	"or stamped (prompts whose pieces are the moments at which they were made)"

// options are the flags.
type options struct {
	transport, address, op string
	pictures, labels       string
	prompts                string
	pause                  time.Duration
	spin                   spinFlag
	callers                int
	calls, warmUp          int
	seconds, rate          float64
	seed                   uint64
	server                 int
	hold, untilLine        bool
	model                  string
	bytes, slots, core     int
}

func parse(args []string) (options, error) {
	o := options{spin: spinFlag(shm.DefaultSpin)}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar(&o.transport, "transport", "shm", "`name`: shm, uds, http, grpc, or packets (rows of any size over a Unix socket)")
	f.StringVar(&o.address, "address", "", "socket `path`; for http a URL")
	f.StringVar(&o.op, "op", "echo", "what is called: "+ops)
	f.StringVar(&o.pictures, "pictures", "", "`file` of pictures to classify, 3072 bytes each")
	f.StringVar(&o.labels, "labels", "", "JSON `file` with the label of each picture, as the engine gives it in process")
	f.StringVar(&o.prompts, "prompts", "", "JSON `file` of prompts and their replies, as the generator gives them in process")
	f.DurationVar(&o.pause, "pause", 0, "prompt, stamped: `time` to sleep between two prompts")
	f.Var(&o.spin, "spin", "shm: poll for this `time` before sleeping: 100us, 0, forever")
	f.IntVar(&o.callers, "callers", 1, "goroutines that call")
	f.IntVar(&o.calls, "calls", 0, "stop after `N` calls")
	f.Float64Var(&o.seconds, "seconds", 0, "or after this `time`")
	f.Float64Var(&o.rate, "rate", 0, "calls due each second, however long they take; 0: each caller sends when it has its answer")
	f.IntVar(&o.warmUp, "warmup", 1000, "`N` calls before, which do not count")
	f.Uint64Var(&o.seed, "seed", 1, "of the payloads")
	f.IntVar(&o.server, "server", 0, "process `id` of the server: what it uses meanwhile is reported")
	f.BoolVar(&o.hold, "hold", false, "when warm, print ready and wait for a line on stdin; at the end, wait for another one")
	f.BoolVar(&o.untilLine, "until-line", false, "with -hold: stop at a line on stdin, before the time is over")
	f.StringVar(&o.model, "model", "", "call: `name` of the model, which has one input x and one output y, UINT8 [bytes]; the default one otherwise")
	f.IntVar(&o.bytes, "bytes", 0, "call: `N` bytes of a row; 0: rows are neither written nor looked at")
	f.IntVar(&o.slots, "slots", 0, "shm: `N` slots of the default model's session; 0: the server's default")
	f.IntVar(&o.core, "core", -1, "pin the thread of each caller to this `core`, and no other thread")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(f)
}

func (o *options) check(f *flag.FlagSet) error {
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.address == "":
		return errors.New("-address is missing")
	case !slices.Contains([]string{"echo", "classify", "idle", "call", "echo-prompt", "prompt", "stamped"}, o.op):
		return fmt.Errorf("-op %q: %s", o.op, ops)
	case o.op == "classify" && (o.pictures == "" || o.labels == ""):
		return errors.New("-op classify needs -pictures and -labels")
	case o.streams() && (o.prompts == "" || o.transport != "shm" || o.callers != 1 || o.rate != 0):
		return fmt.Errorf("-op %s needs -prompts, and has one caller through shm who sends when it has its answer", o.op)
	case o.callers < 1 || o.pause < 0 || o.calls < 0 || o.seconds < 0 || o.warmUp < 0 || o.rate < 0:
		return errors.New("a number is out of range")
	case o.bytes < 0 || o.slots < 0 || o.core < -1:
		return errors.New("a number is out of range")
	case o.op == "call" && (o.rate != 0 || o.bytes == 0 && o.transport != "shm"):
		return errors.New("-op call has callers who send when they have their answer, and through all but shm -bytes")
	case o.untilLine && (!o.hold || o.seconds == 0 || o.rate != 0 || o.streams() || o.op == "idle"):
		return errors.New("-until-line needs -hold and -seconds, and callers who send when they have their answer")
	case (o.calls > 0) == (o.seconds > 0):
		return errors.New("one of -calls and -seconds is needed")
	case o.rate > 0 && o.seconds == 0:
		return errors.New("-rate needs -seconds")
	case o.op == "idle" && o.seconds == 0:
		return errors.New("-op idle needs -seconds")
	}
	return nil
}

// streams: what is measured are prompts.
func (o *options) streams() bool { return o.op == "prompt" || o.op == "stamped" }

func (o *options) lasting() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

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
