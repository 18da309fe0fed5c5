package main

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// verdict returns how a terminal promise ends the command that waited for it;
// nil for exit code 0. The end that is the script's own is said to a person
// only: elsewhere the exit code says it, and nothing is added.
func (a *app) verdict(p api.Promise) error {
	code, text, own := exitOf(p)
	f := &failure{code: code}
	if code != 0 && (!own || a.terminal) {
		f.err = fmt.Errorf("%s %s", p.ID, text)
	}
	if lacksModule(p) {
		f.hint("the python runtime sees the standard library only; for the packages of the machine: --runtime python-env")
	}
	if code == 0 && len(f.hints) == 0 {
		return nil
	}
	return f
}

// exitOf returns the exit code for a terminal promise, what to say about it,
// and whether that end was the script's own.
func exitOf(p api.Promise) (code int, text string, own bool) {
	out := p.Outcome
	if out == nil {
		out = &api.Outcome{}
	}
	switch cause := promise.Cause(out.Cause); {
	case p.State == promise.Resolved.String():
		return 0, "", true
	case p.State == promise.Canceled.String():
		return exitFailed, "was cancelled", false
	case p.State == promise.TimedOut.String():
		return exitTimeout, "passed its deadline of " + milliseconds(p.Call.DeadlineMS), false
	case cause == promise.CauseTimeout:
		return exitTimeout, "was killed at its timeout of " + milliseconds(p.Call.TimeoutMS), false
	case cause == promise.CauseExit && out.ExitCode != nil:
		return *out.ExitCode, fmt.Sprintf("ended with exit code %d", *out.ExitCode), true
	case cause == promise.CauseSignal && out.Signal != nil:
		return exitSignal + *out.Signal, "was killed by " + signalName(*out.Signal), true
	case cause == promise.CauseExhausted:
		return exitFailed, fmt.Sprintf("was given up: its %d attempts were lost by their workers", lastAttempt(p)) + told(out), false
	default:
		return otherExit(p, out)
	}
}

// otherExit is exitOf for the ends that a limit of the machine brings about.
func otherExit(p api.Promise, out *api.Outcome) (code int, text string, own bool) {
	text = "ended: " + strings.ReplaceAll(out.Cause, "_", " ") + told(out)
	switch {
	case out.ExitCode != nil && *out.ExitCode != 0:
		return *out.ExitCode, text, false
	case out.Signal != nil:
		return exitSignal + *out.Signal, text, false
	case p.State == promise.Rejected.String() && out.Cause == "":
		return exitFailed, "was rejected", false
	default:
		return exitFailed, text, false
	}
}

func signalName(n int) string {
	return fmt.Sprintf("signal %d (%s)", n, syscall.Signal(n))
}

// told is what the outcome says of its cause, to follow it.
func told(out *api.Outcome) string {
	if out.Error == nil || out.Error.Detail == "" {
		return ""
	}
	return " (" + out.Error.Detail + ")"
}

// lacksModule reports whether a script failed because the bare interpreter
// does not look where the machine's packages are.
func lacksModule(p api.Promise) bool {
	return p.State == promise.Rejected.String() && p.Call.Runtime == "python" && p.Outcome != nil &&
		strings.Contains(p.Outcome.Stderr.Tail, "ModuleNotFoundError")
}

func milliseconds(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }
