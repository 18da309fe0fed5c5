package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"modulate/internal/api"
	"modulate/workerd/host"
	"modulate/workerd/keeper"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// boxedMachine runs scripts in sandboxes.
var boxedMachine = host.Machine{Sandbox: host.Sandbox{Level: sandbox.Bwrap}}

// apart is between two submissions of one caller, time for what was used to be
// replaced.
const apart = 50 * time.Millisecond

// A nonce makes each script unlike any other. It says when it began, too.
type nonce struct{ n atomic.Int64 }

func (s *nonce) source() (source, word string) {
	word = fmt.Sprintf("nonce-%d-%d", os.Getpid(), s.n.Add(1))
	return "import time\nprint(" + strconv.Quote(word) + ", time.time_ns())\n", word
}

// once submits a script of its own, waits for its end, and returns when it
// began to write.
func (s *nonce) once(ctx context.Context, c *client) (began time.Time, err error) {
	source, word := s.source()
	body, err := json.Marshal(api.Submit{Machine: "cpu", Mode: "rpc", Script: api.Script{Name: "bench.py", Source: &source}})
	if err != nil {
		return began, err
	}
	answer, err := c.post(ctx, "/v1/promises", body)
	if err != nil {
		return began, err
	}
	var p api.Promise
	if err := json.Unmarshal(answer, &p); err != nil {
		return began, err
	}
	if p.State != "resolved" || p.Outcome == nil {
		return began, fmt.Errorf("it did not resolve: %s", answer)
	}
	said, ns, _ := strings.Cut(strings.TrimSpace(p.Outcome.Stdout.Tail), " ")
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil || said != word {
		return began, fmt.Errorf("the script said %q, want %s and a time", p.Outcome.Stdout.Tail, word)
	}
	return time.Unix(0, n), nil
}

// boxed measures real scripts in sandboxes against the bare interpreter, and
// the same sandbox started for each.
func boxed(ctx context.Context, w io.Writer) error {
	python, err := runner.Python()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "boxed", dir, slots())
	if err != nil {
		return err
	}
	defer srv.stop()
	b := boxes{ctx: ctx, python: python, dir: dir, client: newClient(srv.url, 2*slots())}
	for _, measure := range []func(io.Writer) error{b.one, b.many, func(w io.Writer) error { return srv.memory(w) }} {
		if err := measure(w); err != nil {
			return fmt.Errorf("scripts in sandboxes: %w", err)
		}
	}
	return coldOne(ctx, w, python)
}

type boxes struct {
	ctx         context.Context
	python, dir string
	client      *client
	nonce       nonce
}

// bare runs the interpreter on a script of its own.
func (b *boxes) bare() error {
	source, word := b.nonce.source()
	script := filepath.Join(b.dir, "hello.py")
	if err := os.WriteFile(script, []byte(source), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(b.ctx, b.python, "-I", "-S", script).Output()
	if err == nil && !bytes.HasPrefix(out, []byte(word)) {
		err = fmt.Errorf("the bare script said %q", out)
	}
	return err
}

// one is one caller who pauses between submissions.
func (b *boxes) one(w io.Writer) error {
	v, err := b.turns(b.bare)
	if err != nil {
		return err
	}
	floor := median(v[2])
	is := "bare spawn " + number(floor)
	figure{name: "real script in a sandbox, one caller, p50", unit: "ms", value: median(v[0]), floor: is, reach: 0.7 * floor}.print(w)
	figure{name: "submit to first byte of its output, p50", unit: "ms", value: median(v[1]), floor: is, reach: 0.4 * floor}.print(w)
	return nil
}

// turns has one caller and bare take turns, with a pause before each. It
// returns what a life, the way to its first byte and bare take in each round.
func (b *boxes) turns(bare func() error) ([][]float64, error) {
	const calls = 40
	return each(func() ([]float64, error) {
		var whole, first, floor []float64
		for range calls {
			time.Sleep(apart)
			ms, err := timed(bare)
			if err != nil {
				return nil, err
			}
			floor = append(floor, ms)
			time.Sleep(apart)
			sent := time.Now()
			began, err := b.nonce.once(b.ctx, b.client)
			if err != nil {
				return nil, err
			}
			whole, first = append(whole, millis(time.Since(sent))), append(first, millis(began.Sub(sent.Round(0))))
		}
		return []float64{median(whole), median(first), median(floor)}, nil
	})
}

// many is as many callers as keep every slot busy. Its floor is as many that
// start the same sandbox with the same interpreter for each script.
func (b *boxes) many(w io.Writer) error {
	bare, err := b.openCold()
	if err != nil {
		return err
	}
	v, err := each(func() ([]float64, error) {
		floor, err := rate(b.ctx, slots(), pass, func(int64) error { return bare.run() })
		if err != nil {
			return nil, err
		}
		got, err := rate(b.ctx, 2*slots(), pass, func(int64) error {
			_, err := b.nonce.once(b.ctx, b.client)
			return err
		})
		return []float64{got, floor}, err
	})
	if err != nil {
		return err
	}
	floor := median(v[1])
	figure{name: "real scripts in sandboxes, saturated", unit: "1/s", value: median(v[0]), floor: "the same spawned bare " + number(floor), reach: 0.85 * floor, atMin: true}.print(w)
	return nil
}

// memory is what the server and each of its keepers have resident.
func (s *process) memory(w io.Writer) error {
	peak, err := s.peakMiB()
	if err != nil {
		return err
	}
	figure{name: "its server's peak resident set", unit: "MiB", value: peak, floor: "-", reach: 40}.print(w)
	var all []float64
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(text)) {
			status, err := os.ReadFile("/proc/" + pid + "/status")
			_, rss, found := strings.Cut(string(status), "VmRSS:")
			if err != nil || !found || !strings.HasPrefix(string(status), "Name:\t"+keeper.Name) {
				continue
			}
			kib, err := strconv.ParseFloat(strings.Fields(rss)[0], 64)
			if err != nil {
				return err
			}
			all = append(all, kib/1024)
		}
	}
	if len(all) == 0 {
		return errors.New("no keeper is one of the small binary: make bench builds it beside the benchmark")
	}
	figure{name: "a keeper's resident set", unit: "MiB", value: median(all), floor: "-", reach: 4}.print(w)
	return nil
}
