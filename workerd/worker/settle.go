package worker

import (
	"context"
	"errors"
	"time"

	"modulate/internal/promise"
)

// settle reports the outcome until the answer is known, or the lease is over.
// What is not answered by then is left to the spool, where it is safe from the
// first vain try on.
func (j *job) settle(out promise.Outcome) (promise.Record, error) {
	o := &kept{ID: j.id, Version: j.version, ClaimID: j.claim, SettleID: j.w.engine.NewNonce(), Outcome: out}
	over := j.held.Add(j.rec.Task.Lease)
	var b backoff
	for tries := 0; ; tries++ {
		last := !time.Now().Before(over)
		rec, err := j.w.report(j.base, *j.rec, o)
		if known(err) {
			j.reported(err)
			if tries > 0 {
				j.w.spool.drop(*o)
			}
			return rec, err
		}
		if tries == 0 {
			j.w.spool.keep(*o)
			j.w.point(PointKept)
		}
		if last || !pause(j.base, b.next()) {
			j.w.spool.handOver(*o)
			return *j.rec, err
		}
	}
}

// report is one try to settle. rec is the record to begin with; empty: the
// stored one. It is always a LateSettle, which differs from a Fulfil only
// where the lease was taken for lost: a sweeper whose clock is ahead may think
// so in what is good time here.
func (w *Worker) report(ctx context.Context, rec promise.Record, o *kept) (promise.Record, error) {
	ev := promise.LateSettle{Version: o.Version, ClaimID: o.ClaimID, SettleID: o.SettleID, Outcome: o.Outcome}
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var err error
	if rec.ID == "" {
		rec, err = w.engine.Apply(bounded, o.ID, ev)
	} else {
		rec, err = w.engine.Step(bounded, rec, ev)
	}
	w.store.heard(ctx, err)
	return rec, err
}

// reported is what follows once it is known what became of the outcome. The
// message is deleted unless another works on the promise: then it is one
// message more, and harmless.
func (j *job) reported(err error) {
	switch {
	case err == nil:
		j.w.point(PointSettled)
		j.dropMessage()
		j.w.point(PointDeleted)
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrNotFound):
		j.dropMessage()
	default:
		j.w.log.Info("an outcome came too late; the script runs again or has run again", "id", j.id, "version", j.version, "error", err)
	}
}

// release gives the task back: the script is dead, then the record says so,
// then the message is visible at once.
func (j *job) release() (promise.Record, error) {
	cause, _, _ := j.w.away.look()
	ev := promise.Release{Version: j.version, ClaimID: j.claim, Cause: cause}
	rec := *j.rec
	left := time.Until(j.held.Add(rec.Task.Lease))
	err := j.w.store.again(j.base, patience{callTime, left}, func(ctx context.Context) (err error) {
		next, err := j.w.engine.Step(ctx, rec, ev)
		if next.ID != "" {
			rec = next
		}
		return err
	})
	if err != nil {
		return rec, err
	}
	j.w.point(PointReleased)
	if j.receipt != "" {
		j.w.hide(j.base, j.receipt, 0)
	}
	return rec, nil
}

func (j *job) dropMessage() {
	if j.receipt != "" {
		j.w.remove(j.base, j.receipt)
		j.receipt = ""
	}
}

// settleKept tries once to settle each outcome in the spool.
func (w *Worker) settleKept(ctx context.Context) {
	for _, o := range w.spool.waiting() {
		rec, err := w.report(ctx, promise.Record{}, &o)
		if !known(err) {
			continue // its turn comes again
		}
		w.log.Info("an outcome that was kept is settled or of no use any more", "id", o.ID, "version", o.Version, "state", rec.State.String(), "error", err)
		w.spool.drop(o)
	}
}

// keep settles what is handed over to the spool, as soon as the store is back.
func (w *Worker) keep(ctx context.Context) {
	var b backoff
	for {
		if len(w.spool.waiting()) == 0 {
			b = backoff{}
			select {
			case <-w.spool.added:
			case <-ctx.Done():
				return
			}
		}
		if !pause(ctx, b.next()) {
			return
		}
		w.settleKept(ctx)
	}
}
