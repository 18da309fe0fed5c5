package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"modulate/internal/local"
	"modulate/internal/server"
	"modulate/workerd/runner"
)

// noop is a runner that returns at once: what is left is Modulate itself.
type noop struct{}

var _ runner.Runner = noop{}

// Run ends with exit code 0 and no output.
func (noop) Run(context.Context, runner.Job) runner.Result { return runner.Result{} }

// serve is the server under test on dir, until ctx ends.
func serve(ctx context.Context, kind, dir, slots string, ready func(url string)) error {
	n, err := strconv.Atoi(slots)
	if err != nil {
		return fmt.Errorf("slots: %w", err)
	}
	jobs, err := runner.OpenWorkplace("")
	if err != nil {
		return err
	}
	defer jobs.Close()
	var run runner.Runner = runner.Exec{Dir: jobs.Dir, Spares: &runner.Spares{}}
	if kind == "noop" {
		run = noop{}
	}
	l, err := local.Open(ctx, local.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer l.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	err = server.Run(ctx, server.Config{
		Local: l, Listener: listener, Machines: []server.Machine{{Name: "cpu", Slots: n}},
		Runner: func(server.Machine, string) (runner.Runner, func() error, error) {
			return run, func() error { return nil }, nil
		},
		Runtimes: runner.Runtimes(nil), Hard: ctx,
		Ready: func() error { ready("http://" + listener.Addr().String()); return nil },
	})
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
