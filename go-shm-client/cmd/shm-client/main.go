// Command shm-client does the daily jobs with a shm-server: classify pictures, prompt, measure the latency of echoes, ping.
//
//	shm-client classify cat.jpg ship.png
//	shm-client prompt "To be, or not to be"
//	shm-client echo -n 100000
//	shm-client --help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	shm "go-shm-client"
)

const usage = `usage: shm-client COMMAND [flags]

commands:
  classify FILE...  label pictures (PNG, JPEG or GIF, any size)
  prompt TEXT...    print the model's answer as it is generated
  echo              measure the latency of echoes, each one's checksum verified
  ping              measure a few echoes one by one
  info              what the server says about itself

"shm-client COMMAND --help" shows a command's flags.
`

var commands = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) error{
	"classify": classify,
	"prompt":   prompt,
	"echo":     echo,
	"ping":     ping,
	"info":     info,
}

// errUsage: what the flags were is wrong, and was said already.
var errUsage = errors.New("bad usage")

// errTold: something failed, and each failure was told where it happened.
var errTold = errors.New("failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0, 1 for a failure, 2 for bad usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "shm-client: no command %q; shm-client --help lists them\n", args[0])
		return 2
	}
	switch err := command(ctx, args[1:], stdout, stderr); {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errTold):
		return 1
	default:
		fmt.Fprintf(stderr, "shm-client: %v\n", err)
		return 1
	}
}

// flags are what every command has.
type flags struct {
	*flag.FlagSet
	socket  string
	timeout time.Duration
}

func newFlags(name, operands, summary string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("shm-client "+name, flag.ContinueOnError)}
	f.StringVar(&f.socket, "socket", shm.DefaultSocket(), "Unix `path` that the server listens at")
	f.DurationVar(&f.timeout, "timeout", 10*time.Second, "give up connecting, or one call, after this `time`")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: %s [flags]%s\n\n%s\n\nflags:\n", f.Name(), operands, summary)
		f.PrintDefaults()
	}
	return f
}

// parse reads the flags, also those behind operands: `classify cat.png --top 3`.
func (f *flags) parse(args []string, stdout, stderr io.Writer) (operands []string, err error) {
	var said, help = stderr, stdout
	f.SetOutput(io.Discard) // the flag package answers an error with the whole help; one line is clearer
	for {
		switch err := f.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			f.SetOutput(help)
			f.Usage()
			return nil, err
		case err != nil:
			return nil, f.misused(said, "%v", err)
		}
		if f.NArg() == 0 {
			return operands, nil
		}
		operands = append(operands, f.Arg(0))
		args = f.Args()[1:]
	}
}

// misused says what is wrong with the flags.
func (f *flags) misused(stderr io.Writer, format string, args ...any) error {
	fmt.Fprintf(stderr, "%s: %s; %s --help shows the usage\n", f.Name(), fmt.Sprintf(format, args...), f.Name())
	return errUsage
}

func (f *flags) dial(ctx context.Context, opts ...shm.Option) (*shm.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return shm.Dial(ctx, f.socket, opts...)
}
