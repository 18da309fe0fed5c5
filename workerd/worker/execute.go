package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/workerd/device"
	"modulate/workerd/runner"
)

// Execute runs the promise with that id here, without its queue, until it is
// terminal: whatever its machine, beyond the slots, attempt after attempt. An
// attempt of another worker is waited for. When ctx is cancelled the script is
// killed and the task given back, which costs none of its budgets; the error
// is then ctx's. promise.ErrNotFound.
func (w *Worker) Execute(ctx context.Context, id string) (promise.Record, error) {
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer w.hurry(ctx, end)()
	watch := w.engine.Watch(id)
	defer watch.Stop()
	var b backoff
	for ctx.Err() == nil {
		rec, err := w.attempt(ctx, base, id)
		until := w.engine.Time() // of the wait for another try
		switch {
		case rec.State.Terminal(), errors.Is(err, promise.ErrNotFound):
			return rec, notSettled(err)
		case err == nil:
			b = backoff{}
		case errors.Is(err, promise.ErrLeased):
			until = min(rec.DeadlineAt, rec.Task.LeaseEnd.Add(promise.Skew))
		case errors.Is(err, promise.ErrNotYet):
			until = min(rec.DeadlineAt, rec.NotBefore)
		case errors.Is(err, promise.ErrState):
			until = rec.DeadlineAt
		default:
			until = until.Add(b.next())
		}
		w.await(ctx, watch, until)
	}
	return promise.Record{ID: id}, context.Cause(ctx)
}

// errKept: an outcome waits in the spool, and a new attempt would make it
// worthless.
var errKept = errors.New("an outcome waits for the store")

// attempt makes one attempt, if the promise is to be had. It ends early with
// ctx.
func (w *Worker) attempt(ctx, base context.Context, id string) (promise.Record, error) {
	if w.settleKept(ctx); w.spool.has(id) {
		return promise.Record{}, errKept
	}
	devices, err := w.lend(ctx, id)
	if err != nil {
		return promise.Record{}, err
	}
	defer devices.Return()
	j, rec, err := w.claim(base, id)
	if err != nil {
		return rec, err
	}
	j.devices = devices
	defer context.AfterFunc(ctx, func() {
		why := drained
		if errors.Is(context.Cause(ctx), runner.ErrNow) || closed(w.aborted) {
			why = aborted
		}
		j.stop(why)
	})()
	return j.run()
}

// lend takes the devices that the promise's machine has, before its task is
// claimed: a lease is not kept waiting for them.
func (w *Worker) lend(ctx context.Context, id string) (*device.Lease, error) {
	if w.cfg.Lend == nil {
		return nil, nil
	}
	rec, err := w.engine.Get(ctx, id)
	if err != nil || rec.State.Terminal() {
		return nil, err
	}
	return w.cfg.Lend(ctx, rec.Machine)
}

// hurry ends all that is done under base some time after ctx has ended, and
// stops the scripts at once when the worker is aborted. It is to be undone.
func (w *Worker) hurry(ctx context.Context, end context.CancelCauseFunc) (undo func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		hurry, ended := w.aborted, ctx.Done()
		var over <-chan time.Time
		for {
			select {
			case <-hurry:
				w.stopAll(aborted)
				hurry = nil
			case <-ended:
				ended = nil
				over = time.After(grace + settleTime)
			case <-over:
				end(runner.ErrNow)
				over = nil
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}

// notSettled drops the sentinel that says what Execute is there for.
func notSettled(err error) error {
	if errors.Is(err, promise.ErrSettled) {
		return nil
	}
	return err
}

// lookAgain is how often a promise is tried again that changes unseen.
const lookAgain = time.Second

// await returns when the promise may have changed, at the time given, or at
// ctx's end.
func (w *Worker) await(ctx context.Context, watch *engine.Waiter, until promise.Time) {
	d := until.Sub(w.engine.Time())
	if d <= 0 {
		return
	}
	if watch.Changed() == nil {
		d = min(d, lookAgain)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-watch.Changed():
	case <-timer.C:
	case <-ctx.Done():
	}
}
