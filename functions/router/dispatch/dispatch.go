// Package dispatch is the handler of the router: it takes submissions, cancels
// promises and takes uploads. It checks everything that can fail without a
// worker before anything is stored, creates the promise by a conditional
// write, and sends for a worker. docs/api.md lists its requests.
//
// Any number of these handlers may stand on one store: they share nothing, and
// every request may be repeated.
package dispatch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// Config is what the handler needs. Only Engine must be set.
type Config struct {
	Engine *engine.Engine
	Roster store.Roster                        // nil: only machines with a queue are known
	Owner  func(*http.Request) (string, error) // who calls; nil: always [api.LocalOwner]
	Log    *slog.Logger                        // nil: discarded

	Lease    time.Duration // of a call that names none; 0: [api.DefaultLease]
	MinLease time.Duration // the least that a call may name; 0: [api.MinLease]
}

// dispatcher is the handler's state: nothing but what is known for good.
type dispatcher struct {
	*api.Service
	machines machines
	leases   leases
}

// New returns the handler.
func New(c Config) http.Handler {
	d := &dispatcher{
		Service:  &api.Service{Engine: c.Engine, Owner: c.Owner, Log: c.Log},
		machines: machines{queue: c.Engine.Queue, roster: c.Roster, seen: make(map[string]bool)},
		leases:   leases{unasked: cmp.Or(c.Lease, api.DefaultLease), least: cmp.Or(c.MinLease, api.MinLease)},
	}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/promises", api.HandleJSON(d.Service, d.submit))
	mux.Handle("POST /v1/promises/{id}/cancel", d.Handle(d.cancel))
	mux.Handle("POST /v1/blobs", api.HandleJSON(d.Service, d.askBlob))
	mux.Handle("PUT /v1/blobs/{sha256}", d.Handle(d.putBlob))
	mux.Handle("/", d.NotServed())
	return mux
}

// What has been begun may take so long, and leaves so much of its caller's
// time for the answer.
const (
	finishTime = 20 * time.Second
	answerTime = time.Second
)

// begin returns a context for what is finished though the caller of ctx goes
// away. It ends in time for the caller that stays to hear of it.
func begin(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := finishTime
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)-answerTime)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// cancel ends a promise and all that is attached below it. What it has begun
// it finishes, though its caller goes away.
func (d *dispatcher) cancel(r *api.Request) (api.Answer, error) {
	if r.ContentLength != 0 {
		if err := api.Decode(r.Request, &struct{}{}); err != nil {
			return api.Answer{}, err
		}
	}
	ctx, stop := begin(r.Context())
	defer stop()
	rec, err := d.Own(ctx, r.Caller, r.PathValue("id"))
	if err != nil {
		return api.Answer{}, err
	}
	rec, err = d.Engine.Step(ctx, rec, promise.Cancel{SettleID: d.Engine.NewNonce()})
	if errors.Is(err, promise.ErrSettled) {
		lost := api.AsError(api.Fail(promise.ErrSettled, "", "%s is %s already", rec.ID, rec.State))
		lost.State = rec.State.String()
		return api.Answer{}, lost
	}
	if err != nil {
		return api.Answer{}, err
	}
	p, err := d.View(ctx, rec)
	return api.Answer{Body: p}, err
}
