package worker

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// spec is what the runner is to run. An error means that this host cannot run
// it: a runtime that it does not have, content that is not there.
func (j *job) spec() (runner.Job, error) {
	call := &j.claimed.Call
	command, err := j.command(cmp.Or(call.Runtime, "python"))
	if err != nil {
		return runner.Job{}, err
	}
	in, err := j.input(call)
	if err != nil {
		return runner.Job{}, err
	}
	spec := runner.Job{
		Command: command, Name: call.Name, Args: in.Args, Env: j.env(in.Env),
		Script: j.content(call.Script, 0), Stdout: &j.stdout, Stderr: j.devices.Hear(&j.stderr), Devices: j.devices.Nodes(),
		Timeout: call.Timeout, Grace: grace, Now: j.now, Collect: j.collect,
		Note: j.will(), Lease: &j.lease, Leave: j.w.over,
	}
	if j.w.cfg.API != nil {
		j.socket = &socket{j: j}
		spec.Serve = j.socket.serve
	}
	for _, f := range in.Files {
		spec.Files = append(spec.Files, runner.File{Name: f.Name, Open: j.content(f.SHA256, 0)})
	}
	if !call.Stdin.IsZero() {
		src, err := j.content(call.Stdin, 0)()
		if err != nil {
			return runner.Job{}, fmt.Errorf("opening its standard input: %w", err)
		}
		j.stdin, spec.Stdin = src, src
	}
	return spec, nil
}

// command is what runs scripts of that runtime. That of uv is made for this
// script; *uv.Refused: the script asks for what cannot be had.
func (j *job) command(runtime string) ([]string, error) {
	if command, ok := j.w.cfg.Runtimes[runtime]; ok {
		return command, nil
	}
	cache := j.w.cfg.Environments
	switch {
	case runtime == uv.Runtime && cache == nil:
		return nil, fmt.Errorf("this worker has no runtime %q: %w (pip install uv); --runtime python runs it without its dependencies", runtime, uv.ErrNotInstalled)
	case runtime != uv.Runtime:
		have := slices.Sorted(maps.Keys(j.w.cfg.Runtimes))
		return nil, fmt.Errorf("this worker has no runtime %q; it has %s", runtime, strings.Join(have, ", "))
	}
	script, err := j.content(j.claimed.Call.Script, 0)()
	if err != nil {
		return nil, err
	}
	defer script.Close()
	command, done, err := cache.Prepare(j.script, script)
	j.environment = done
	return command, err
}

// input returns the call's arguments, environment and files.
func (j *job) input(call *promise.Call) (in promise.Input, err error) {
	if call.InputBlob.IsZero() {
		return call.Input, nil
	}
	err = j.w.blobs.again(j.work, patience{callTime, blobTime}, func(ctx context.Context) (err error) {
		in, err = j.w.engine.Input(ctx, *call)
		return err
	})
	return in, err
}

// env is the environment that the call names and what the worker adds, which
// the call cannot replace.
func (j *job) env(call map[string]string) []string {
	own := [...]string{
		"MODULATE_ID=" + j.id,
		"MODULATE_ATTEMPT=" + strconv.FormatUint(uint64(j.number), 10),
		"MODULATE_MACHINE=" + j.machine,
		"MODULATE_GRACE=" + strconv.Itoa(int(grace/time.Second)),
	}
	devices := j.devices.Env()
	env := make([]string, 0, len(call)+len(own)+len(devices))
	for _, name := range slices.Sorted(maps.Keys(call)) {
		if !strings.HasPrefix(name, "MODULATE_") && !slices.ContainsFunc(devices, named(name)) {
			env = append(env, name+"="+call[name])
		}
	}
	return append(append(env, own[:]...), devices...)
}

// named reports whether an entry of an environment has that name.
func named(name string) func(entry string) bool {
	return func(entry string) bool { return strings.HasPrefix(entry, name+"=") }
}

// content returns what opens the content with that hash, from offset on.
func (j *job) content(sum promise.Hash, offset int64) func() (io.ReadCloser, error) {
	return func() (src io.ReadCloser, err error) {
		err = j.w.blobs.again(j.work, patience{callTime, blobTime}, func(context.Context) (err error) {
			// The reader outlives the call, so the call's limit is not its.
			src, err = j.w.engine.Blobs.Get(j.work, blob.ContentKey(sum), offset)
			return err
		})
		return src, err
	}
}

// closeInputs ends what the script read from and talked to.
func (j *job) closeInputs() {
	if j.socket != nil {
		j.socket.close()
	}
	if j.stdin != nil {
		j.stdin.Close()
	}
	if j.environment != nil {
		j.environment()
	}
}
