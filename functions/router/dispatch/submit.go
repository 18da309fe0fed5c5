package dispatch

import (
	"context"
	"errors"
	"net/http"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// submit creates the promise of a call, or finds the one that was created for
// it before, and waits for its end as long as it was asked to.
func (d *dispatcher) submit(r *api.Request, sub api.Submit) (api.Answer, error) {
	draft, err := newDraft(sub, r.Caller, r.Prefer.Wait > 0, d.leases)
	if err != nil {
		return api.Answer{}, err
	}
	if err := d.machines.check(r.Context(), sub.Machine); err != nil {
		return api.Answer{}, err
	}
	draft.setID(d.Engine.Time())
	var watch *engine.Waiter
	if r.Prefer.Wait > 0 {
		watch = d.Engine.WatchEnd(draft.rec.ID)
		defer watch.Stop()
	}
	// What has been begun is finished, though the caller goes away: it would
	// be left without a message.
	begun, stop := begin(r.Context())
	defer stop()
	rec, created, err := d.store(begun, draft)
	if err != nil {
		return api.Answer{}, err
	}
	if watch != nil {
		rec = d.await(r, watch, rec)
	}
	return d.submitted(r, draft, rec, created)
}

// store finds what the draft names, keeps what it brings and creates the
// promise, or returns the one that it had created before.
func (d *dispatcher) store(ctx context.Context, draft *draft) (rec promise.Record, created bool, err error) {
	err = d.checkParent(ctx, draft)
	if errors.Is(err, promise.ErrParent) {
		rec, err := d.child(ctx, draft, err)
		return rec, false, err
	}
	if err != nil {
		return rec, false, err
	}
	if err := d.checkBlobs(ctx, draft); err != nil {
		return rec, false, err
	}
	with, rec, err := d.keep(ctx, draft)
	if err == nil {
		rec, err = d.create(with, draft)
	}
	switch {
	case errors.Is(err, promise.ErrExists):
		return rec, false, same(draft, rec)
	case errors.Is(err, promise.ErrParent):
		rec, err = d.child(ctx, draft, err)
		return rec, false, err
	default:
		return rec, err == nil, err
	}
}

// keep puts what the draft brings into the blobs, at the latest with the record
// that is created under the context that it returns. Where it would have to, and
// an id was given, it looks first whether that is taken: what is refused leaves
// nothing behind. If it is, the record that has it is returned with
// [promise.ErrExists].
func (d *dispatcher) keep(ctx context.Context, draft *draft) (context.Context, promise.Record, error) {
	missing, err := d.missing(ctx, draft)
	if err != nil {
		return ctx, promise.Record{}, err
	}
	if len(missing) > 0 && draft.sub.ID != "" {
		rec, err := d.Engine.Get(ctx, draft.rec.ID)
		if err == nil {
			return ctx, rec, promise.ErrExists
		}
		if !errors.Is(err, promise.ErrNotFound) {
			return ctx, promise.Record{}, err
		}
	}
	for _, c := range missing {
		if ctx, _, err = blob.Ride(ctx, d.Engine.Blobs, blob.ContentKey(c.sum), c.body, c.sum); err != nil {
			break
		}
	}
	return ctx, promise.Record{}, err
}

// create writes the record, all times in it by one look at the clock.
func (d *dispatcher) create(ctx context.Context, draft *draft) (promise.Record, error) {
	now := d.Engine.Time()
	at := *d.Engine
	at.Now = func() promise.Time { return now }
	rec := draft.rec
	rec.DeadlineAt = now.Add(draft.deadline)
	return at.Create(ctx, rec, draft.parent())
}

// checkParent refuses a parent that is not the caller's, or not pending under
// the claim that the caller has.
func (d *dispatcher) checkParent(ctx context.Context, draft *draft) error {
	p := draft.parent()
	if p == nil {
		return nil
	}
	rec := draft.caller.Parent
	if rec == nil {
		found, err := d.Engine.Get(ctx, p.ID)
		if errors.Is(err, promise.ErrNotFound) || err == nil && found.Owner != draft.caller.Owner {
			return api.Fail(promise.ErrNotFound, "parent", "there is no promise %s to be the parent", p.ID)
		}
		if err != nil {
			return err
		}
		rec = &found
	}
	if err := promise.CheckParent(*rec, p.Version, p.Claim, d.Engine.Time()); err != nil {
		return api.Fail(promise.ErrParent, "parent", "%s is %s and takes no more children", p.ID, described(*rec))
	}
	return nil
}

// described says why a parent is none.
func described(rec promise.Record) string {
	if rec.State.Terminal() {
		return rec.State.String()
	}
	return "held by another attempt"
}

// child returns the child that an earlier try of the same request has made,
// while its parent still took children; else refusal.
func (d *dispatcher) child(ctx context.Context, draft *draft, refusal error) (promise.Record, error) {
	rec, err := d.Engine.Get(ctx, draft.rec.ID)
	if errors.Is(err, promise.ErrNotFound) {
		return rec, refusal
	}
	if err != nil {
		return rec, err
	}
	return rec, same(draft, rec)
}

// same refuses a record that was created by another call or for another owner.
func same(draft *draft, rec promise.Record) error {
	switch {
	case rec.Owner != draft.caller.Owner:
		return api.Fail(api.ErrConflict, "id", "the id %s is taken: choose another", rec.ID)
	case rec.CallHash != draft.rec.CallHash:
		return api.Fail(api.ErrConflict, "id", "the id %s is taken by another call, submitted %s: choose another id, or submit the very same call", rec.ID, rec.CreatedAt.Std().Format(time.RFC3339))
	}
	return nil
}

// await returns rec at its end, or as it is when the wait is over. It fails
// for nobody: the promise is stored, and 202 says so.
func (d *dispatcher) await(r *api.Request, watch *engine.Waiter, rec promise.Record) promise.Record {
	if rec.State.Terminal() {
		return rec
	}
	rec, err := watch.Wait(r.Context(), rec, r.Prefer.Within(r.Context()))
	if err != nil && r.Context().Err() == nil {
		d.Warn(r.Context(), "a wait broke off", "id", rec.ID, "error", err)
	}
	return rec
}

// submitted answers: 201 for a new promise, 200 for one that was there, and
// 202 for either if the submitter asked for its end and it has none yet.
func (d *dispatcher) submitted(r *api.Request, draft *draft, rec promise.Record, created bool) (api.Answer, error) {
	if created { // its input need not be read again
		rec.Call.Input, rec.Call.InputBlob = draft.input, promise.Hash{}
	}
	p, err := d.View(r.Context(), rec)
	a := api.Answer{Status: http.StatusOK, Applied: r.Prefer.Applied(), Body: p}
	if created {
		a.Status, a.Location = http.StatusCreated, api.PromisePath(rec.ID)
	}
	if !rec.State.Terminal() && (r.Prefer.Wait > 0 || r.Prefer.Async) {
		a.Status, a.Location, a.RetryAfter = http.StatusAccepted, api.PromisePath(rec.ID), time.Second
	}
	return a, err
}
