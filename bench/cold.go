package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
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

// A bareBox starts a sandbox and its interpreter for one script after the
// other, with nothing made ahead: what the machine's sandboxes show, though in
// no cgroup.
type bareBox struct {
	*boxes
	in     sandbox.Config
	socket string
}

func (b *boxes) openCold() (*bareBox, error) {
	plan, err := boxedMachine.Plan(slots())
	if err != nil {
		return nil, err
	}
	bare := &bareBox{boxes: b, in: plan.Sandbox, socket: filepath.Join(b.dir, "socket")}
	return bare, os.MkdirAll(bare.socket, 0o755)
}

func (b *bareBox) run() error {
	source, word := b.nonce.source()
	s := sandbox.Start{Command: []string{b.python, "-I", "-S", "-c", source}, Socket: b.socket}
	if os.Geteuid() == 0 {
		s.UID = sandbox.FirstUID
	}
	c, err := b.in.Command(s)
	if err != nil {
		return err
	}
	defer c.Close()
	cmd := &exec.Cmd{Path: c.Path, Args: c.Argv, Env: c.Env, ExtraFiles: c.Files}
	out, err := cmd.Output()
	if err == nil && !bytes.HasPrefix(out, []byte(word)) {
		err = fmt.Errorf("the script in its sandbox said %q", out)
	}
	return err
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
	b := boxes{ctx: ctx, python: python, dir: dir, client: newClient(srv.url, 1)}
	bare, err := b.openCold()
	if err != nil {
		return err
	}
	v, err := b.turns(bare.run)
	if err != nil {
		return fmt.Errorf("scripts in sandboxes, the pool empty: %w", err)
	}
	floor := median(v[2])
	is := "sandbox and interpreter from cold " + number(floor)
	figure{name: "real script in a sandbox, the pool empty, p50", unit: "ms", value: median(v[0]), floor: is, reach: floor + 3}.print(w)
	figure{name: "submit to first byte of its output, the pool empty, p50", unit: "ms", value: median(v[1]), floor: is, reach: floor + 3}.print(w)
	return nil
}
