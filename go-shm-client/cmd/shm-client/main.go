// Command shm-client does the daily jobs with a shm-server: classify pictures, prompt, run any model, measure the latency of echoes, ping.
//
//	shm-client classify cat.jpg ship.png
//	shm-client prompt "To be, or not to be"
//	shm-client models
//	shm-client call iris x=5.1,3.5,1.4,0.2
//	shm-client echo -n 100000
//	shm-client help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go-shm-client/internal/fault"
	"go-shm-client/pictures"
)

const usage = `usage: shm-client COMMAND [flags] [operands]

commands:
  classify FILE...  label pictures: ` + pictures.Formats + `, any size
  call MODEL X=...  run any model: X is an input, ... its numbers
  models            the models that there are, with their inputs and outputs
  prompt TEXT...    print the model's answer as it is generated
  echo              measure the latency of echoes, each one's checksum verified
  ping              measure a few echoes one by one
  info              what the server says about itself
  version           this program's version, and the layout that it speaks
  help [COMMAND]    this, or a command's flags

Flags may stand before and behind operands; what follows "--" is an operand, whatever it begins with. "-" as FILE or TEXT is
standard input. With -json, standard output has one JSON object a line, {"error": TEXT} for what failed.

exit codes:
  0    all is well
  1    something failed, and each failure was said in a line on standard error; the other pictures were classified
  2    the command line is wrong
  3    the reply of a prompt was cut
  130  ended by SIGINT; 143 by SIGTERM
`

const (
	exitFailed = 1
	exitUsage  = 2
	exitCut    = 3
)

type command func(ctx context.Context, args []string, t *terminal) error

var commands = map[string]command{
	"classify": classify,
	"call":     call,
	"models":   models,
	"prompt":   prompt,
	"echo":     echo,
	"ping":     ping,
	"info":     info,
	"version":  version,
}

// errSaid: something failed, and each failure was said where it happened.
var errSaid = errors.New("failed")

// errCut: a reply was cut, and that was said.
var errCut = errors.New("the reply was cut")

// errNothing: nothing was asked for, and the usage was printed.
var errNothing = errors.New("no command")

// A misuse is what is wrong with the command line.
type misuse struct{ error }

// A killed context ended by a signal.
type killed struct{ signal syscall.Signal }

func (k killed) Error() string {
	if k.signal == syscall.SIGINT {
		return "ended by SIGINT"
	}
	return "ended by SIGTERM"
}

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		by := killed{(<-signals).(syscall.Signal)}
		cancel(by)
		// Whatever does not look at its context has a moment: a write to a pipe that nobody reads, for instance.
		time.Sleep(time.Second)
		os.Exit(128 + int(by.signal))
	}()
	os.Exit(run(ctx, os.Args[1:], &terminal{stdin: os.Stdin, stdout: &output{Writer: os.Stdout}, stderr: os.Stderr}))
}

// run returns the exit code.
func run(ctx context.Context, args []string, t *terminal) int {
	err := dispatch(ctx, args, t)
	var wrong misuse
	var by killed
	switch {
	case errors.As(context.Cause(ctx), &by):
		fmt.Fprintf(t.stderr, "shm-client: %v\n", by)
		return 128 + int(by.signal)
	case errors.Is(err, errNothing):
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintln(t.stderr, fault.Line(err.Error()))
		return exitUsage
	case t.stdout.err != nil:
		if !errors.Is(t.stdout.err, syscall.EPIPE) { // `shm-client ... | head` is no failure to speak of
			fmt.Fprintf(t.stderr, "shm-client: standard output: %v\n", t.stdout.err)
		}
		return exitFailed
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errCut):
		return exitCut
	case errors.Is(err, errSaid):
		return exitFailed
	default:
		t.failed("", err)
		return exitFailed
	}
}

func dispatch(ctx context.Context, args []string, t *terminal) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "":
		fmt.Fprint(t.stderr, usage)
		return errNothing
	case "help", "-h", "-help", "--help":
		if len(args) == 0 || strings.HasPrefix(args[0], "-") || args[0] == "help" {
			fmt.Fprint(t.stdout, usage)
			return nil
		}
		if len(args) > 1 {
			return misuse{fmt.Errorf("shm-client help: unexpected argument %q", args[1])}
		}
		name, args = args[0], []string{"-help"}
	case "-version", "--version":
		name = "version"
	}
	chosen, ok := commands[name]
	if !ok {
		return misuse{fmt.Errorf("shm-client: no command %q; shm-client help lists them", name)}
	}
	return chosen(ctx, args, t)
}
