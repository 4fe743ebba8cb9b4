package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	shm "go-shm-client"
)

// flags are what every command has.
//
// They are the standard library's: it takes -n and --n alike, as the program always has, where pflag and kong read -socket as
// six flags of a letter. What it lacks, operands before flags, is below.
type flags struct {
	*flag.FlagSet
	terminal *terminal
	socket   string
	timeout  time.Duration
	wait     bool
	options  shm.Options
}

func newFlags(t *terminal, name, operands, summary string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("shm-client "+name, flag.ContinueOnError), terminal: t}
	f.BoolVar(&t.json, "json", false, "print one JSON object a line")
	f.Usage = func() {
		fmt.Fprintf(t.stdout, "usage: %s [flags]%s\n\n%s\n\nflags:\n", f.Name(), operands, summary)
		f.SetOutput(t.stdout)
		f.PrintDefaults()
	}
	return f
}

// connects adds the flags of a command that speaks with a server. each is what -timeout bounds.
func (f *flags) connects(timeout time.Duration, each string) *flags {
	f.StringVar(&f.socket, "socket", shm.DefaultSocket(), "Unix `path` that the server listens at")
	f.DurationVar(&f.timeout, "timeout", timeout, "give up after this `time`: connecting, and then "+each)
	f.Func("server-user", "trust a server of the user with this `id`, besides your own and root's", func(text string) error {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return errors.New("not a user's id")
		}
		f.options.ServerUsers = append(f.options.ServerUsers, int(id))
		return nil
	})
	f.BoolVar(&f.wait, "wait", false, "wait for a server that is not up yet, or whose model is starting, for -timeout")
	return f
}

// parse reads the flags, also those behind operands: `classify cat.png -top 3`.
func (f *flags) parse(args []string) (operands []string, err error) {
	f.SetOutput(io.Discard) // the flag package answers an error with the whole help; one line is clearer
	usage := f.Usage
	f.Usage = func() {}
	for len(args) > 0 {
		switch arg := args[0]; {
		case arg == "--":
			operands, args = append(operands, args[1:]...), nil
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			operands, args = append(operands, arg), args[1:]
		default:
			taken := min(f.width(arg), len(args))
			if err := f.Parse(args[:taken]); errors.Is(err, flag.ErrHelp) {
				usage()
				return nil, err
			} else if err != nil {
				return nil, f.misused("%v%s", err, hint(err))
			}
			args = args[taken:]
		}
	}
	if f.Lookup("socket") != nil {
		switch {
		case f.socket == "":
			return nil, f.misused("-socket is empty")
		case f.timeout <= 0:
			return nil, f.misused("-timeout %v: not more than 0", f.timeout)
		}
	}
	return operands, nil
}

// width is how many arguments a flag is: itself, and its value where that does not follow a "=".
func (f *flags) width(arg string) int {
	name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
	known := f.Lookup(name)
	if known == nil {
		return 1 // with "=", unknown, or -help
	}
	if b, ok := known.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
		return 1
	}
	return 2
}

// given is whether a flag was set: there is no value that stands for "not set".
func (f *flags) given(name string) (set bool) {
	f.Visit(func(one *flag.Flag) { set = set || one.Name == name })
	return set
}

// misused says what is wrong with the flags.
func (f *flags) misused(format string, args ...any) error {
	return misuse{fmt.Errorf("%s: %s; %s -help shows the flags", f.Name(), fmt.Sprintf(format, args...), f.Name())}
}

// hint helps who meant an operand.
func hint(err error) string {
	if strings.HasPrefix(err.Error(), "flag provided but not defined") {
		return ` (what follows "--" is an operand)`
	}
	return ""
}

// use makes a client and has open connect it, waited for where -wait says so. models are those that are to be ready; none: all.
func (f *flags) use(ctx context.Context, open func(context.Context, *shm.Client) error, models ...string) (*shm.Client, error) {
	ctx, cancel := f.bound(ctx)
	defer cancel()
	client, err := shm.NewClient(f.socket, f.options)
	if err != nil {
		return nil, err
	}
	if f.wait {
		err = client.WaitReady(ctx, models...)
	}
	if err == nil {
		err = open(ctx, client)
	}
	if err != nil {
		client.Close()
		return nil, f.explain(err)
	}
	return client, nil
}

// useDefault is use of the default call model.
func (f *flags) useDefault(ctx context.Context) (client *shm.Client, info shm.Info, err error) {
	client, err = f.use(ctx, func(ctx context.Context, client *shm.Client) (err error) {
		info, err = client.Info(ctx)
		return err
	})
	return client, info, err
}

// explain names the flag that helps.
func (f *flags) explain(err error) error {
	if foreign := (*shm.ForeignServerError)(nil); errors.As(err, &foreign) {
		return fmt.Errorf("%w: -server-user %d", err, foreign.User)
	}
	return err
}

// bound is a context that ends with -timeout.
func (f *flags) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, f.timeout, f.late())
}

func (f *flags) late() error { return fmt.Errorf("nothing within -timeout %v", f.timeout) }
