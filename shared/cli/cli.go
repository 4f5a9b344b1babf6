// Package cli owns what the command lines of hub and agent share: how they
// are parsed, which exit code an error means, how they log, and the commands
// that both have (get, set, tree, watch, history, import, status, store).
//
// It talks to a running instance through package client only, and reads the
// store of a stopped one with what the binary opens. Exit codes: 0
// done, 1 refused or failed (one line on standard error: what, then a hint),
// 2 wrong usage.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sapflow/sapflow/shared/api"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// App is a command line.
type App struct {
	Name        string // of the binary
	Description string // what it is and examples, shown by --help
	Version     string // shown by --version
	Commands    any    // pointer to a kong grammar with Flags embedded
	Store       OpenStore
}

// Flags are the flags of every command line.
type Flags struct {
	Version kong.VersionFlag `help:"Print the version and exit."`
}

// usageError is an error that means exit code 2.
type usageError struct{ error }

// Unwrap returns the error itself.
func (e usageError) Unwrap() error { return e.error }

// Usage marks an error as wrong usage.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// Usagef returns an error of wrong usage.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exit is what kong's own flags (--help, --version) end with.
type exit int

// Run parses args and runs the command that they name, until it is done or a
// signal asks it to stop. It returns the exit code.
func (a App) Run(args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exit:
			code = int(r)
		default:
			panic(r)
		}
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	out := &Out{Writer: stdout, Err: stderr}
	parser, err := kong.New(a.Commands,
		kong.Name(a.Name), kong.Description(a.Description), kong.Vars{"version": a.Name + " " + a.Version},
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, NoAppDescFormat: true}),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(out, a.Store),
	)
	if err != nil {
		return a.fail(stderr, err)
	}
	command, err := parser.Parse(shieldNumbers(parser.Model, args))
	if err != nil {
		var parse *kong.ParseError
		if errors.As(err, &parse) {
			err = Usagef("%s; see %s --help", err, strings.TrimSpace(a.Name+" "+commandOf(parse.Context)))
		}
		return a.fail(stderr, err)
	}
	return a.fail(stderr, command.Run())
}

// commandOf returns the command that was being parsed.
func commandOf(c *kong.Context) string {
	if c == nil || c.Selected() == nil {
		return ""
	}
	return c.Selected().Path()
}

// fail prints what an error is in one line and returns its exit code.
func (a App) fail(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	var e *api.Error
	if errors.As(err, &e) {
		text = string(e.Code) + ": " + text
	}
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	fmt.Fprintf(stderr, "%s: %s\n", a.Name, text)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// negative is an argument that is a value although it begins as a flag does:
// -5, -.5, -1h, -Inf.
var negative = regexp.MustCompile(`^-(\.?[0-9]|Inf$)`)

// shieldNumbers lets values begin with a minus sign: one that follows a flag
// is joined to it, one that stands alone goes behind "--".
func shieldNumbers(model *kong.Application, args []string) []string {
	takesValue := map[string]bool{}
	_ = kong.Visit(model, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok {
			takesValue["--"+f.Name] = !f.IsBool()
		}
		return next(nil)
	})
	var head, tail []string
	for i, arg := range args {
		if arg == "--" {
			tail = append(tail, args[i+1:]...)
			break
		}
		last := len(head) - 1
		switch {
		case !negative.MatchString(arg):
			head = append(head, arg)
		case last >= 0 && takesValue[head[last]]:
			head[last] += "=" + arg
		default:
			tail = append(tail, arg)
		}
	}
	if len(tail) > 0 {
		head = append(append(head, "--"), tail...)
	}
	return head
}

// Main runs a command line with the arguments and files of the process.
func (a App) Main() int { return a.Run(os.Args[1:], os.Stdout, os.Stderr) }
