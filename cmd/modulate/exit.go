package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"modulate/internal/account"
	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// The exit codes, besides the script's own and 128+N of a signal that killed
// it.
const (
	exitLost        = 1   // a cancel came too late
	exitInput       = 2   // bad input, a taken id too
	exitUnknown     = 3   // no promise with that id
	exitUnreachable = 4   // no server at the address
	exitFor         = 75  // wait --for is over
	exitTimeout     = 124 // the attempt's timeout, or the promise's deadline
	exitFailed      = 125 // cancelled, exhausted, or a failure of the service
	exitInterrupted = 130 // Ctrl-C
	exitSignal      = 128 // and the signal's number
)

// codes says how the command ends for what the service answered. What is in no
// row is a failure of the service.
var codes = [...]struct {
	sentinel error
	code     int
}{
	{errInterrupted, exitInterrupted},
	{errWaited, exitFor},
	{api.ErrInvalid, exitInput},
	{api.ErrTooLarge, exitInput},
	{api.ErrConflict, exitInput},
	{store.ErrCursor, exitInput},
	{promise.ErrParent, exitInput},
	{promise.ErrSettled, exitLost},
	{promise.ErrNotFound, exitUnknown},
}

var (
	errInterrupted = errors.New("interrupted")
	errWaited      = errors.New("the time to wait is over")
)

// A failure ends the command: with a code, and with lines on stderr.
type failure struct {
	code  int
	err   error // nil: there is nothing to say
	hints []string
}

// Error says what is wrong, where, and what to do instead.
func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit code %d", f.code)
	}
	return f.err.Error()
}

// Unwrap returns what the failure came from.
func (f *failure) Unwrap() error { return f.err }

// hint adds a line about what to do.
func (f *failure) hint(format string, args ...any) *failure {
	f.hints = append(f.hints, fmt.Sprintf(format, args...))
	return f
}

// ends returns the failure that says nothing, or nil for 0.
func ends(code int) error {
	if code == 0 {
		return nil
	}
	return &failure{code: code}
}

// badInput is the failure of a command that was called wrongly.
func badInput(format string, args ...any) *failure {
	return &failure{code: exitInput, err: fmt.Errorf(format, args...)}
}

// asFailure returns how err ends the command.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var trouble *account.Trouble
	if errors.As(err, &trouble) {
		return awsFailure(trouble)
	}
	var gone *api.Unreachable
	if errors.As(err, &gone) {
		return unreachable(gone)
	}
	var refused *api.Error
	if errors.As(err, &refused) {
		err = inOurWords(refused)
	}
	for _, row := range codes {
		if errors.Is(err, row.sentinel) {
			return &failure{code: row.code, err: err}
		}
	}
	return &failure{code: exitFailed, err: err}
}

// say says what err ends with, and returns its code; 0 where err is nil.
func (a *app) say(err error) int {
	if err == nil {
		return 0
	}
	return a.fail(asFailure(err))
}

// unreachable says what to start where nobody answers.
func unreachable(gone *api.Unreachable) *failure {
	f := &failure{code: exitUnreachable, err: gone}
	if len(gone.Address) > 0 && gone.Address[0] == '/' {
		return f.hint("the worker that served this script's MODULATE_SOCKET is gone; unset it to work without it")
	}
	if u, err := url.Parse(gone.Address); err == nil {
		if _, aws := account.TargetOf(u.Host); aws {
			return f.hint("see that the network is up; `modulate doctor --stage STAGE` looks closer")
		}
	}
	return f.hint("start a server there, `modulate dev` for one of your own, or unset MODULATE_URL and --url to work on the store in .modulate")
}

// flagOf names our flag for the API's field, or for the fields below it.
var flagOf = map[string]string{
	"id": "--id", "machine": "--machine", "mode": "--mode", "parent": "--parent", "runtime": "--runtime",
	"timeout_ms": "--timeout", "deadline_ms": "--deadline", "lease_ms": "--lease", "stdin": "--stdin",
	"script": "FILE", "args": "ARGS", "env": "-e", "files": "--file", "tags": "--tag", "retry": "--retry",
	"state": "--state", "since": "--since", "limit": "--limit", "prefix": "--prefix",
	"attempt": "--attempt", "stream": "--stream",
}

// worded is an answer of the service in the words of the command line.
type worded struct {
	flag   string
	answer *api.Error
}

// inOurWords names the flag at fault.
func inOurWords(e *api.Error) error {
	field, _, _ := strings.Cut(e.Where, ".")
	if flag, ok := flagOf[field]; ok && !errors.Is(e, promise.ErrNotFound) {
		return worded{flag, e}
	}
	return e
}

// Error says the flag and what is wrong with it.
func (w worded) Error() string { return w.flag + ": " + w.answer.Error() }

// Unwrap returns the answer.
func (w worded) Unwrap() error { return w.answer }
