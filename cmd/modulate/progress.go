package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"modulate/internal/api"
)

// How often a person who waits is told anew, and how long a machine may be
// without a worker before that is said.
const (
	progressEvery = 500 * time.Millisecond
	awsProgress   = 5 * time.Second // on AWS, where each look is paid for
	workerless    = 3 * time.Second
)

// A view is what is known of a promise that is waited for.
type view struct {
	promise api.Promise
	ahead   int    // about how many wait before it; -1: not known
	workers int    // of its machine that are up; -1: not known
	here    string // the worker in this process, which runs it; "": a server does
	waited  time.Duration
	trouble string // why the server does not answer; "": it does
	said    bool   // that no worker is up
}

// progress keeps the status line up to date until ctx ends.
func (w *watch) progress(ctx context.Context) {
	pause(ctx, liveAfter)
	began := time.Now()
	v, every := view{ahead: -1, workers: -1, here: w.svc.worker()}, progressEvery
	if w.svc.aws {
		every = awsProgress
	}
	for ctx.Err() == nil {
		w.look(ctx, &v)
		if ctx.Err() != nil {
			return
		}
		v.waited = time.Since(began) + liveAfter
		if v.workerless() && !v.said {
			v.said = true
			w.hint(w.noWorker(v.promise.Machine))
		}
		w.setStatus(v.text())
		pause(ctx, every)
	}
}

// noWorker says what to do where no worker of machine is up.
func (w *watch) noWorker(machine string) string {
	if w.svc.aws {
		return fmt.Sprintf("no worker of %s is up: its fleet starts one, if it may; `modulate machines` shows who is up", machine)
	}
	return fmt.Sprintf("no worker of %s is up: start `workerd --machine %[1]s`, or `modulate dev` with %[1]s among its --machines", machine)
}

// look asks how things are.
func (w *watch) look(ctx context.Context, v *view) {
	v.trouble = w.svc.trouble()
	if v.trouble != "" {
		return // whoever waits for the end asks again and again
	}
	ctx, cancel := context.WithTimeout(ctx, workerless)
	defer cancel()
	p, err := w.svc.client.Get(ctx, w.id, 0)
	if err != nil {
		return // not stored yet, or met by whoever waits
	}
	v.promise = p
	if v.here != "" || runningAttempt(p) != nil {
		return
	}
	all, err := w.svc.client.Machines(ctx)
	if err != nil {
		return
	}
	for _, m := range all.Items {
		if m.Name != p.Machine {
			continue
		}
		v.workers = len(m.Workers)
		if ahead := max(0, m.Depth-1); v.ahead < 0 || ahead < v.ahead {
			v.ahead = ahead // what comes later comes behind
		}
	}
}

// text is v as a status line.
func (v *view) text() string {
	p, at := v.promise, runningAttempt(v.promise)
	var parts []string
	switch {
	case v.trouble != "":
		parts = append(parts, v.trouble)
	case p.ID == "":
		parts = append(parts, "submitting")
	case at != nil && v.here == at.Worker:
		parts = append(parts, p.State+", running here for "+p.Machine, attemptNumber(at.Number))
	case at != nil && v.here != "":
		parts = append(parts, p.State+", held by "+at.Worker+" until its lease is over or it ends", attemptNumber(at.Number))
	case at != nil:
		parts = append(parts, p.State+", running on "+p.Machine+" ("+at.Worker+")", attemptNumber(at.Number))
	default:
		parts = append(parts, p.State+", waiting for "+p.Machine, attemptNumber(lastAttempt(p)+1))
		if v.workerless() {
			parts = append(parts, "no worker is up")
		} else if v.ahead > 0 {
			parts = append(parts, fmt.Sprintf("about %d before it", v.ahead))
		}
	}
	return strings.Join(append(parts, v.waited.Round(time.Second).String()), ", ")
}

func attemptNumber(n uint32) string { return fmt.Sprintf("attempt %d", n) }

// workerless reports whether nobody is up who could run the promise, for
// longer than it takes to start.
func (v *view) workerless() bool {
	return v.workers == 0 && v.waited >= workerless && v.here == "" && v.promise.ID != "" && runningAttempt(v.promise) == nil
}

// runningAttempt is the attempt that runs, or nil.
func runningAttempt(p api.Promise) *api.Attempt {
	if n := len(p.Attempts); n > 0 && p.Attempts[n-1].EndedAt == nil && !terminal(p) {
		return &p.Attempts[n-1]
	}
	return nil
}
