package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"modulate/internal/local"
	"modulate/internal/server"
	"modulate/workerd/host"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
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
	m := host.Machine{Sandbox: host.Sandbox{Level: sandbox.None}}
	if kind == "boxed" || kind == "cold" {
		m = boxedMachine
	}
	h, err := host.Open(m, host.Options{Slots: n})
	if err != nil {
		return err
	}
	defer h.Close()
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
		Runner: func(m server.Machine, spool string) (runner.Runner, func() error, error) {
			switch kind {
			case "noop":
				return noop{}, func() error { return nil }, nil
			case "cold":
				return openCold(spool, n)
			}
			return h.Runner(host.Worker{Machine: m.Name, Spool: spool, Slots: m.Slots})
		},
		Runtimes: h.Runtimes, Hard: ctx,
		Ready: func() error { ready("http://" + listener.Addr().String()); return nil },
	})
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
