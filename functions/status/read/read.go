// Package read is the handler of the status function: it shows promises, at
// once or when they have ended, lists them, and gives out what their scripts
// wrote and left. docs/api.md lists its requests.
//
// What it says of one promise is strongly consistent: a terminal state is
// shown only when it is stored. Lists are hints.
package read

import (
	"log/slog"
	"net/http"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/store"
)

// Config is what the handler needs. Only Engine must be set.
type Config struct {
	Engine *engine.Engine
	Roster store.Roster                        // nil: nothing is known of workers
	Owner  func(*http.Request) (string, error) // who calls; nil: always [api.LocalOwner]
	Log    *slog.Logger                        // nil: discarded

	// RetryAfter, if set, asks clients whose wait is over to poll at this
	// interval rather than to wait again.
	RetryAfter time.Duration
	// LogPoll is how often the blobs are looked at for new output, while
	// somebody waits for it; 0: 100 ms.
	LogPoll time.Duration
	// Audience is told whose output somebody follows, where workers go by that;
	// nil: nobody asks.
	Audience store.Audience
}

type reader struct {
	*api.Service
	roster     store.Roster
	retryAfter time.Duration
	logPoll    time.Duration
	notes      notes
	edges      edges
}

// New returns the handler.
func New(c Config) http.Handler {
	rd := &reader{
		Service:    &api.Service{Engine: c.Engine, Owner: c.Owner, Log: c.Log},
		roster:     c.Roster,
		retryAfter: c.RetryAfter,
		logPoll:    c.LogPoll,
		notes:      notes{audience: c.Audience},
	}
	if rd.logPoll == 0 {
		rd.logPoll = 100 * time.Millisecond
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/promises", rd.Handle(rd.list))
	mux.Handle("GET /v1/promises/{id}", rd.Handle(rd.get))
	mux.Handle("GET /v1/promises/{id}/logs", rd.Handle(rd.logs))
	mux.Handle("GET /v1/promises/{id}/artifacts", rd.Handle(rd.artifacts))
	mux.Handle("GET /v1/promises/{id}/artifacts/{name...}", rd.Handle(rd.artifact))
	mux.Handle("GET /v1/machines", rd.Handle(rd.machines))
	mux.Handle("/", rd.NotServed())
	return mux
}

// get shows a promise, after a wait if one was asked for and it is pending.
func (rd *reader) get(r *api.Request) (api.Answer, error) {
	if err := known(r.URL.Query()); err != nil {
		return api.Answer{}, err
	}
	watch := rd.Engine.WatchEnd(r.PathValue("id"))
	defer watch.Stop()
	rec, err := rd.Own(r.Context(), r.Caller, r.PathValue("id"))
	if err != nil {
		return api.Answer{}, err
	}
	if !rec.State.Terminal() && r.Prefer.Wait > 0 {
		if rec, err = watch.Wait(r.Context(), rec, r.Prefer.Within(r.Context())); err != nil {
			return api.Answer{}, err
		}
	}
	p, err := rd.View(r.Context(), rec)
	a := api.Answer{Body: p, Applied: r.Prefer.Applied()}
	if !rec.State.Terminal() {
		a.RetryAfter = rd.retryAfter
	}
	return a, err
}
