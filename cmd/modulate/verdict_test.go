package main

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// ended is a promise with that state and outcome.
func ended(state string, out *api.Outcome) api.Promise {
	return api.Promise{
		ID: "job", State: state, Outcome: out,
		Call: api.Call{Runtime: "python", TimeoutMS: 2000, DeadlineMS: 3_600_000},
	}
}

func number(n int) *int { return &n }

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		p    api.Promise
		code int
		said string // off a terminal
	}{
		"ok":        {ended("resolved", &api.Outcome{Cause: "ok", ExitCode: number(0)}), 0, ""},
		"exit":      {ended("rejected", &api.Outcome{Cause: "exit", ExitCode: number(3)}), 3, ""},
		"signal":    {ended("rejected", &api.Outcome{Cause: "signal", Signal: number(9)}), 137, ""},
		"timeout":   {ended("rejected", &api.Outcome{Cause: "timeout"}), 124, "modulate: error: job was killed at its timeout of 2s\n"},
		"deadline":  {ended("rejected_timedout", &api.Outcome{Cause: "deadline"}), 124, "modulate: error: job passed its deadline of 1h0m0s\n"},
		"cancelled": {ended("rejected_canceled", &api.Outcome{Cause: "canceled"}), 125, "modulate: error: job was cancelled\n"},
		"exhausted": {
			api.Promise{
				ID: "job", State: "rejected", Outcome: &api.Outcome{Cause: "exhausted", Error: &api.Problem{Detail: "how the attempts ended: lost, bad_host"}},
				Attempts: []api.Attempt{{Number: 1, Cause: "lost"}, {Number: 2, Cause: "bad_host"}},
			},
			125, "modulate: error: job was given up: its 2 attempts were lost by their workers (how the attempts ended: lost, bad_host)\n",
		},
		"memory": {
			ended("rejected", &api.Outcome{Cause: "out_of_memory", Signal: number(9)}),
			137, "modulate: error: job ended: out of memory\n",
		},
		"disk": {
			ended("rejected", &api.Outcome{Cause: "disk_full", Error: &api.Problem{Detail: "1 GiB is the limit"}}),
			125, "modulate: error: job ended: disk full (1 GiB is the limit)\n",
		},
		"settled from outside": {ended("rejected", nil), 125, "modulate: error: job was rejected\n"},
		"module": {
			ended("rejected", &api.Outcome{Cause: "exit", ExitCode: number(1), Stderr: api.Stream{Tail: "ModuleNotFoundError: No module named 'x'\n"}}),
			1, "modulate: hint: the python runtime sees the standard library only; for the packages of the machine: --runtime python-env\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			a := &app{screen: newScreen(&stderr)}
			if code := a.say(a.verdict(c.p)); code != c.code || stderr.String() != c.said {
				t.Errorf("exit code %d, said %q; want %d, %q", code, &stderr, c.code, c.said)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code int
	}{
		"bad input":     {badInput("no"), 2},
		"invalid":       {api.Invalid("timeout_ms", "no"), 2},
		"too large":     {api.Fail(api.ErrTooLarge, "script", "no"), 2},
		"taken":         {api.Fail(api.ErrConflict, "id", "no"), 2},
		"parent":        {api.Fail(promise.ErrParent, "", "no"), 2},
		"lost cancel":   {api.Fail(promise.ErrSettled, "", "no"), 1},
		"unknown":       {fmt.Errorf("reading: %w", api.Fail(promise.ErrNotFound, "id", "no")), 3},
		"unreachable":   {&api.Unreachable{Address: "http://x", Err: errors.New("refused")}, 4},
		"interrupted":   {errInterrupted, 130},
		"waited":        {fmt.Errorf("%w (--for 1s)", errWaited), 75},
		"unavailable":   {api.Fail(api.ErrUnavailable, "", "no"), 125},
		"anything else": {errors.New("no"), 125},
	} {
		if got := asFailure(c.err).code; got != c.code {
			t.Errorf("%s: exit code %d, want %d", name, got, c.code)
		}
	}
	if got := asFailure(api.Invalid("env.LD_X", "no")).Error(); got != "-e: no" {
		t.Errorf("a field of env is called %q, want -e", got)
	}
}
