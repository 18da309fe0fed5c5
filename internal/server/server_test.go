package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/server"
	"modulate/workerd/device"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// limit bounds what a test waits for.
const limit = time.Minute

// A stage is a runner whose scripts each write something, show what they were
// given, and end when they are let go.
type stage struct {
	says  string
	shown chan runner.Job
	letGo chan struct{}
}

func (s stage) Run(ctx context.Context, job runner.Job) runner.Result {
	io.WriteString(job.Stdout, s.says)
	s.shown <- job
	select {
	case <-s.letGo:
		return runner.Result{}
	case <-ctx.Done():
		return runner.Result{End: runner.Killed}
	}
}

// started is a server for a cpu and a gpu over a folder of its own, and its
// client.
func started(t *testing.T, s stage, edit func(*server.Config)) *api.Client {
	t.Helper()
	l, err := local.Open(t.Context(), local.Config{Dir: t.TempDir(), Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	cfg := server.Config{
		Local: l, Listener: listener, Machines: []server.Machine{{Name: "cpu", Slots: 1}, {Name: "gpu", Slots: 1}},
		Runner: func(server.Machine, string) (runner.Runner, func() error, error) {
			return s, func() error { return nil }, nil
		},
		Runtimes: runner.Runtimes(nil), Hard: t.Context(), Ready: func() error { close(ready); return nil },
	}
	edit(&cfg)
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- server.Run(ctx, cfg) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return api.NewClient("http://"+listener.Addr().String(), nil)
}

// submit submits a script for a machine.
func submit(t *testing.T, c *api.Client, id, machine, source, runtime string) {
	t.Helper()
	_, _, err := c.Submit(t.Context(), api.Submit{
		ID: id, Machine: machine, Runtime: runtime, Script: api.Script{Name: "x.py", Source: &source},
	}, api.SubmitOptions{Async: true})
	if err != nil {
		t.Fatal(err)
	}
}

// wait waits for the end of a promise.
func wait(t *testing.T, c *api.Client, id string) api.Promise {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	p, err := c.WaitTerminal(ctx, id, nil)
	if err != nil {
		t.Fatalf("waiting for the end of %s: %v", id, err)
	}
	return p
}

// next is what the next script was given.
func (s stage) next(t *testing.T) runner.Job {
	t.Helper()
	select {
	case job := <-s.shown:
		return job
	case <-time.After(limit):
		t.Fatal("no script runs")
		return runner.Job{}
	}
}

// Its workers know that somebody follows: of an output that is longer than what
// is kept of its beginning, the end can be read while the script runs.
func TestWhoIsFollowedIsHeard(t *testing.T) {
	const half = api.MaxLog / 2
	s := stage{strings.Repeat("x", half) + "a line\n", make(chan runner.Job, 1), make(chan struct{})}
	c := started(t, s, func(*server.Config) {})
	submit(t, c, "a", "cpu", "pass", "")
	s.next(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for body := ""; body == ""; {
		page, err := c.Log(ctx, "a", api.LogQuery{Stream: "stdout", Attempt: 1, Offset: half, Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if body = string(page.Body); body != "" && body != "a line\n" {
			t.Errorf("read %q", body)
		}
	}
	close(s.letGo)
	if p := wait(t, c, "a"); p.State != "resolved" {
		t.Errorf("%+v", p)
	}
}

// one is a machine with a device that is always empty.
type one struct{}

var theDevice = device.Device{UUID: "GPU-1", Minor: 3}

func (one) Look(context.Context) ([]device.Device, error) { return []device.Device{theDevice}, nil }

func (one) Watch(ctx context.Context, _ func(string, int64)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Devices are lent to scripts for other machines than cpu, and are looked at
// before the next gets them.
func TestDevicesAreLent(t *testing.T) {
	s := stage{"", make(chan runner.Job, 1), make(chan struct{})}
	close(s.letGo)
	pool, err := device.New(device.Config{Layer: one{}, Devices: []device.Device{theDevice}, Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := started(t, s, func(cfg *server.Config) { cfg.Devices = pool })
	for id, want := range map[string]bool{"a-gpu": true, "b-gpu": true, "a-cpu": false} {
		submit(t, c, id, id[2:], "pass", "")
		job := s.next(t)
		if has := slices.Contains(job.Devices, "/dev/nvidia3") && slices.Contains(job.Env, "CUDA_VISIBLE_DEVICES=GPU-1"); has != want || !want && len(job.Devices) > 0 {
			t.Errorf("%s has %q, %q", id, job.Devices, job.Env)
		}
		wait(t, c, id)
	}
}

// Environments are those that the workers prepare.
func TestEnvironmentsArePrepared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uv")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	cache, err := uv.Open(uv.Config{Dir: t.TempDir(), Path: path})
	if err != nil {
		t.Fatal(err)
	}
	c := started(t, stage{}, func(cfg *server.Config) { cfg.Environments = cache })
	submit(t, c, "a", "cpu", "# /// script\n# dependencies = [\"x @ https://example.org/x.whl\"]\n# ///\n", "uv")
	if p := wait(t, c, "a"); p.State != "rejected" || p.Outcome == nil || p.Outcome.Error == nil || !strings.HasSuffix(p.Outcome.Error.Type, "dependencies") {
		t.Errorf("%+v, %+v", p, p.Outcome)
	}
}
