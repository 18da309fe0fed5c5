package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/workerd/device"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// A reason says why a script is stopped. A later one in this list overrides an
// earlier one.
type reason uint8

const (
	running reason = iota // it is not
	drained               // the worker stops: SIGTERM, grace, then the task is given back
	fenced                // the lease can no longer be proven: at once
	settled               // the promise has ended without us: SIGTERM, grace
	lost                  // another holds the task: at once
	aborted               // the worker stops at once: the task is given back
)

// String says what happened, for the log.
func (r reason) String() string {
	return [...]string{
		"it was not stopped", "the worker is to stop", "its lease could not be extended in time",
		"its promise has ended", "another worker has its task", "the worker is to stop at once",
	}[r]
}

// stoppedFor is what the end counts as, where there is no outcome.
func (j *job) stoppedFor() promise.Cause {
	switch j.reason() {
	case drained, aborted:
		cause, _, _ := j.w.away.look()
		return cause
	case settled:
		return promise.CauseCanceled // or its deadline has passed
	default:
		return promise.CauseLost
	}
}

var errStopped = errors.New("the script is to stop")

// A job is one attempt, from its claim to what becomes of its outcome.
type job struct {
	w    *Worker
	id   string
	base context.Context // of all that is done for it; ends with the worker

	work    context.Context // its files and output; ends when they are of no use to anyone
	abandon context.CancelCauseFunc
	script  context.Context // the script
	kill    context.CancelCauseFunc
	now     chan struct{} // closed when the script is to die at once, also in its grace

	version uint64
	claim   promise.Nonce
	machine string
	number  uint32          // of the attempt
	claimed *promise.Record // as it was claimed or adopted; nobody changes it
	rec     *promise.Record // as last seen; the guard's while there is one
	held    time.Time       // before the write that granted the lease was sent; likewise

	receipt  string // of its message; "": there is none (any more)
	received time.Time

	stdout, stderr stream
	stdin          io.Closer // nil: it is empty
	socket         *socket
	left           left      // what it left in MODULATE_OUTPUT
	dead           time.Time // the script has been since then; zero: it was killed, or never lived

	lease  runner.Lease  // what its runner knows of it
	orphan runner.Orphan // what another worker has left of it; nil: it began here
	unsure bool          // it was adopted, and its lease has not been extended since

	devices     *device.Lease // nil: the worker has none
	memoryOut   string        // by what evidence it ran out of their memory; "": none
	environment func()        // ends the use of what was prepared for it; nil: nothing was

	guard guard

	mu  sync.Mutex
	why reason
}

// claim takes the task of the promise at whatever version is stored. The error
// is a sentinel of package promise, with the record that refused, or means
// that the store has not answered for as long as a claim is worth.
func (w *Worker) claim(base context.Context, id string) (*job, promise.Record, error) {
	ev := promise.Claim{Worker: w.cfg.Name, ClaimID: w.engine.NewNonce()}
	held := time.Now()
	var rec promise.Record
	err := w.store.again(base, patience{callTime, w.cfg.Lease}, func(ctx context.Context) (err error) {
		rec, err = w.engine.Apply(ctx, id, ev)
		return err
	})
	if err != nil {
		return nil, rec, err
	}
	if time.Since(held) > rec.Task.Lease/3 { // the first tries were in vain, or their answers lost
		held = time.Now()
		if rec, err = w.extend(base, rec); err != nil {
			if !known(err) {
				w.disclaim(base, rec)
			}
			return nil, rec, err
		}
	}
	w.point(PointClaimed)
	return w.newJob(base, rec, held), rec, nil
}

// disclaim tries once to give back a task that was claimed and will not be
// worked on. Left leased it would be taken for lost, and cost a crash.
func (w *Worker) disclaim(base context.Context, rec promise.Record) {
	ev := promise.Release{Version: rec.Task.Version, ClaimID: rec.Task.ClaimID, Cause: promise.CauseDrained}
	err := w.store.call(base, callTime, func(ctx context.Context) error {
		_, err := w.engine.Step(ctx, rec, ev)
		return err
	})
	if err != nil {
		w.log.Warn("a task that was claimed in vain could not be given back", "id", rec.ID, "version", rec.Task.Version, "error", err)
	}
}

// extend extends the lease under which rec holds its task.
func (w *Worker) extend(base context.Context, rec promise.Record) (promise.Record, error) {
	ev := promise.Extend{Version: rec.Task.Version, ClaimID: rec.Task.ClaimID}
	err := w.store.call(base, min(callTime, max(rec.Task.Lease/4, 250*time.Millisecond)), func(ctx context.Context) error {
		next, err := w.engine.Step(ctx, rec, ev)
		if next.ID != "" {
			rec = next
		}
		return err
	})
	return rec, err
}

func (w *Worker) newJob(base context.Context, rec promise.Record, held time.Time) *job {
	j := &job{
		w: w, id: rec.ID, base: base,
		version: rec.Task.Version, claim: rec.Task.ClaimID, machine: rec.Machine,
		number: rec.Attempts[len(rec.Attempts)-1].Number, claimed: &rec, rec: &rec, held: held,
		now: make(chan struct{}),
	}
	j.leaseMoved()
	j.work, j.abandon = context.WithCancelCause(base)
	j.script, j.kill = context.WithCancelCause(j.work)
	heard := j.listen()
	j.capture(&j.stdout, "stdout", heard)
	j.capture(&j.stderr, "stderr", heard)
	return j
}

// run is the attempt: it runs the script, keeps what it left, and reports how
// it ended. It returns the record then, and the error of the last write.
func (j *job) run() (promise.Record, error) {
	j.w.enter(j)
	defer j.w.leave(j)
	defer j.abandon(nil)
	j.note("an attempt begins", "")
	j.startGuard()
	res := j.execute()
	defer j.w.forget(j.id, res)
	if res.End == runner.Left {
		return j.handedOver(), nil
	}
	j.w.point(PointRan)
	out := j.outcome(res)
	j.w.point(PointUploaded)
	j.stopGuard()
	if out != nil {
		j.w.recess.heard(out.Cause)
		j.w.tally.ended(out.Cause)
		j.note("an attempt ends", string(out.Cause))
		return j.settle(*out)
	}
	j.note("a script was stopped", j.reason().String())
	j.w.tally.ended(j.stoppedFor())
	defer j.shipRest()
	switch j.reason() {
	case drained, aborted:
		return j.release()
	case fenced:
		if j.leaseLeft() > margin(j.rec.Task.Lease) { // an extension came through after all
			return j.release()
		}
	case settled:
		j.dropMessage()
	}
	return *j.rec, nil
}

// handedOver ends what this worker does for a job that goes on without it.
func (j *job) handedOver() promise.Record {
	j.stdout.end()
	j.stderr.end()
	j.stopGuard()
	j.note("a script is left to the next worker", "")
	return *j.rec
}

// execute runs the script, and returns when it and all that it started is
// dead.
func (j *job) execute() runner.Result {
	defer j.closeInputs()
	if j.orphan != nil {
		return j.ended(j.resume())
	}
	spec, err := j.spec()
	var refused *uv.Refused
	if errors.As(err, &refused) { // as uv run would end
		fmt.Fprintln(&j.stderr, refused)
		return runner.Result{Code: uv.CodeRefused, Err: refused}
	}
	if err != nil {
		return runner.Result{End: runner.Failed, Err: err}
	}
	j.devices.Used()
	res := j.ended(j.w.cfg.Runner.Run(j.script, spec))
	if res.End == runner.Left {
		return res
	}
	if !j.dead.IsZero() && !j.received.IsZero() {
		j.w.tally.begins(j.dead.Add(-res.Wall).Sub(j.received))
	}
	return res
}

// ended sees to what follows from how a script ended.
func (j *job) ended(res runner.Result) runner.Result {
	if res.End == runner.Left {
		return res
	}
	if errors.Is(res.Err, runner.ErrLease) {
		j.stop(fenced) // its keeper was faster
	}
	j.memoryOut = j.devices.OutOfMemory()
	j.devices.Return()
	return res
}

// note logs what happens to j, where anyone asks for that.
func (j *job) note(what, why string) {
	if j.w.log.Enabled(j.base, slog.LevelInfo) {
		j.w.log.Info(what, "id", j.id, "version", j.version, "attempt", j.number, "why", why)
	}
}

// stop stops the script. Its output goes on being kept unless nobody will ever
// ask for it, or there is no time.
func (j *job) stop(why reason) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if why <= j.why {
		return
	}
	j.why = why
	if atOnce := why != drained && why != settled; atOnce && !closed(j.now) {
		close(j.now)
	}
	switch why {
	case drained:
		j.kill(errStopped)
	case fenced:
		j.kill(runner.ErrNow)
	case settled:
		j.abandon(errStopped)
	default:
		j.abandon(runner.ErrNow)
	}
}

func (j *job) reason() reason {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.why
}

// holds reports whether rec says that this job has the task.
func (j *job) holds(rec promise.Record) bool {
	t := rec.Task
	return t.State == promise.TaskAcquired && t.Version == j.version && t.ClaimID == j.claim
}
