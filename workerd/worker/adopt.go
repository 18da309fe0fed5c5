package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modulate/internal/store"
	"modulate/workerd/runner"
)

// A will is what a worker leaves of a job on its host's disk, for whoever
// adopts it.
type will struct {
	Record   []byte    `json:"record"`            // as the job was claimed, in its stored form
	Receipt  string    `json:"receipt,omitempty"` // of its message
	Received time.Time `json:"received"`
	Devices  []string  `json:"devices,omitempty"` // UUIDs of those that it has
}

// listTime bounds how long the blobs are asked what they have of an adopted
// job's output: until that is known nothing of it is shipped.
const listTime = 24 * time.Hour

var errHandOver = errors.New("the worker hands its scripts over")

// HandOver has Run receive nothing more and return, leaving the scripts that
// run to their keepers and to the worker that adopts them. Where the runner
// keeps nothing, they are killed and given back, as when ctx is cancelled.
func (w *Worker) HandOver() { w.overOnce.Do(func() { close(w.over) }) }

// will returns the job's, as it is now; nil: it dies with this process.
func (j *job) will() func() ([]byte, error) {
	if j.w.cfg.Spool == "" || j.w.cfg.Machine == "" {
		return nil
	}
	left := will{Receipt: j.receipt, Received: j.received, Devices: j.devices.UUIDs()}
	return func() (_ []byte, err error) {
		if left.Record, err = store.Encode(j.claimed); err != nil {
			return nil, err
		}
		return json.Marshal(left)
	}
}

// adopt goes on with the jobs that workers of this host have left. They count
// against the slots.
func (in *intake) adopt() {
	from, ok := in.w.cfg.Runner.(runner.Adopter)
	if !ok {
		return
	}
	orphans, err := from.Adopt()
	if err != nil {
		in.w.log.Error("not all that others have left could be adopted", "error", err)
	}
	for _, o := range orphans {
		j, err := in.w.inherit(in.base, o)
		if err != nil {
			in.w.log.Error("a job that another worker has left cannot be gone on with; its script is killed", "error", err)
			in.jobs.Go(func() { in.w.refuse(o) })
			continue
		}
		select {
		case in.slots <- struct{}{}:
		default:
			in.beyond.Add(1)
		}
		in.jobs.Go(func() {
			j.run()
			in.give(j.devices)
		})
	}
}

// refuse ends a job that nobody can say anything about.
func (w *Worker) refuse(o runner.Orphan) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(runner.ErrNow)
	if res := o.Resume(ctx, runner.Job{}); res.Forget != nil {
		w.forget("", res)
	}
}

// inherit makes a job of an orphan. Its lease is what its keeper knows of it,
// until it is extended, which is tried at once.
func (w *Worker) inherit(base context.Context, o runner.Orphan) (*job, error) {
	var left will
	if err := json.Unmarshal(o.Note(), &left); err != nil {
		return nil, err
	}
	rec, err := store.Decode(left.Record)
	if err == nil && (rec.ID == "" || len(rec.Attempts) == 0) {
		err = errors.New("it names no attempt")
	}
	if err != nil {
		return nil, err
	}
	lease := rec.Task.Lease
	remains := lease - margin(lease) // where nothing runs any more, nothing can be too late
	if until := o.Until(); until > 0 {
		remains = until - runner.Boottime()
	}
	rec.Task.LeaseEnd = w.engine.Time().Add(remains + margin(lease))
	j := w.newJob(base, rec, time.Now().Add(remains+margin(lease)-lease))
	j.receipt, j.received, j.orphan, j.unsure = left.Receipt, left.Received, o, true
	j.devices = w.cfg.Devices.Adopt(left.Devices)
	return j, nil
}

// rest is what is left to do of an adopted job.
func (j *job) rest() (spec runner.Job, err error) {
	spec = runner.Job{Grace: grace, Now: j.now, Collect: j.collect, Lease: &j.lease, Leave: j.w.over}
	if j.w.cfg.API != nil {
		j.socket = &socket{j: j}
		spec.Serve = j.socket.serve
	}
	if err := j.resumeOutput(j.work); err != nil {
		return spec, err
	}
	spec.Stdout, spec.Stderr = &j.stdout, j.devices.Hear(&j.stderr)
	if offset, more := j.orphan.Stdin(); more && !j.claimed.Call.Stdin.IsZero() {
		src, err := j.content(j.claimed.Call.Stdin, int64(offset))()
		if err != nil {
			return spec, fmt.Errorf("opening the rest of its standard input: %w", err)
		}
		j.stdin, spec.Stdin = src, src
	}
	return spec, nil
}

// resume runs what is left of an adopted job. One of which it cannot be known
// what to do is killed.
func (j *job) resume() runner.Result {
	spec, err := j.rest()
	if err != nil {
		j.stop(fenced)
		spec.Stdout, spec.Stderr = nil, nil
	}
	res := j.orphan.Resume(j.script, spec)
	if err != nil {
		res.Err = errors.Join(res.Err, err)
	}
	return res
}

// forget lets a runner forget a job.
func (w *Worker) forget(id string, res runner.Result) {
	if res.Forget == nil {
		return
	}
	if err := res.Forget(); err != nil {
		w.log.Warn("not all that a script had could be removed", "id", id, "error", err)
	}
}
