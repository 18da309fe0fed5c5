package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"modulate/workerd/runner"
)

// An unparked runner has its keepers, but no interpreter waits in their sandboxes:
// each job finds the pool empty. One that does not has failed.
type unparked struct{ *runner.Kept }

var _ runner.Runner = unparked{}

// Run implements [runner.Runner], for one job at a time.
func (u unparked) Run(ctx context.Context, job runner.Job) runner.Result {
	before := u.Pool().Cold
	res := u.Kept.Run(ctx, job)
	if n := u.Pool().Cold - before; n != 1 {
		return runner.Result{End: runner.Failed, Err: fmt.Errorf("%d cold starts were counted for one job", n)}
	}
	return res
}

func openCold(spool string, slots int) (runner.Runner, func() error, error) {
	plan, err := boxedMachine.Plan(slots)
	if err != nil {
		return nil, nil, err
	}
	kept, err := runner.OpenKept(runner.KeptConfig{
		Spool: spool, Prefix: "k.", Ahead: slots, Box: &runner.BoxConfig{Sandbox: plan.Sandbox, Cgroups: plan.Groups},
	})
	if err != nil {
		return nil, nil, err
	}
	return unparked{kept}, kept.Close, nil
}

// coldOne measures one caller whose scripts find the pool empty against the
// same sandbox and interpreter started for each, taking turns.
func coldOne(ctx context.Context, w io.Writer, python string) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "cold", dir, slots())
	if err != nil {
		return err
	}
	defer srv.stop()
	plan, err := boxedMachine.Plan(slots())
	if err != nil {
		return err
	}
	b := boxes{ctx: ctx, python: python, client: newClient(srv.url, 1)}
	v, err := b.turns(func() error { return b.cold(plan.Sandbox) })
	if err != nil {
		return fmt.Errorf("scripts in sandboxes, the pool empty: %w", err)
	}
	floor := median(v[2])
	is := "sandbox and interpreter from cold " + number(floor)
	figure{name: "real script in a sandbox, the pool empty, p50", unit: "ms", value: median(v[0]), floor: is, reach: floor + 3}.print(w)
	figure{name: "submit to first byte of its output, the pool empty, p50", unit: "ms", value: median(v[1]), floor: is, reach: floor + 3}.print(w)
	return nil
}
