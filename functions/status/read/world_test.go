package read

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// world is a status function over memory.
type world struct {
	t       *testing.T
	store   *store.Memory
	queue   *queue.Memory
	blobs   *blob.Memory
	engine  *engine.Engine
	handler http.Handler
	owner   string // who calls, and who submits
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: store.NewMemory(), queue: queue.NewMemory("cpu", "gpu"), blobs: blob.NewMemory(), owner: "alice"}
	w.engine = &engine.Engine{Store: w.store, Queue: w.queue, Blobs: w.blobs}
	w.open(Config{})
	return w
}

// open makes the handler anew, over the engine's ports as they are now.
func (w *world) open(c Config) {
	c.Engine, c.Roster = w.engine, w.store
	c.Owner = func(*http.Request) (string, error) { return w.owner, nil }
	w.handler = through(New(c))
}

// get asks, with headers given as name, value, and decodes the answer into v,
// or into the problem that is returned.
func (w *world) get(v any, path string, headers ...string) (*httptest.ResponseRecorder, api.Problem) {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), "GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	var problem api.Problem
	switch rec.Header().Get("Content-Type") {
	case "application/problem+json":
		v = &problem
	case "application/octet-stream":
		return rec, problem
	}
	if v != nil && rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), v); err != nil {
			w.t.Fatalf("GET %s: %s: %v", path, rec.Body, err)
		}
	}
	return rec, problem
}

// refused checks that a GET is refused as sentinel, at where, saying so.
func (w *world) refused(path string, sentinel error, where, says string, headers ...string) {
	w.t.Helper()
	rec, p := w.get(nil, path, headers...)
	if !errors.Is(&api.Error{Problem: p}, sentinel) || p.Where != where || !strings.Contains(p.Detail, says) || p.Status != rec.Code {
		w.t.Errorf("GET %s: got %d %s\nwant %v at %q: ...%s...", path, rec.Code, rec.Body, sentinel, where, says)
	}
}

// create stores a promise of the caller's.
func (w *world) create(id string, change ...func(*promise.Record)) {
	w.t.Helper()
	rec := promise.Record{
		ID: id, Owner: w.owner, Machine: "cpu", DeadlineAt: w.engine.Time().Add(time.Hour),
		Call: promise.Call{Name: "a.py", Runtime: "python", Timeout: time.Minute, Lease: time.Minute},
	}
	for _, c := range change {
		c(&rec)
	}
	if _, err := w.engine.Create(w.t.Context(), rec, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) apply(id string, ev promise.Event) promise.Record {
	w.t.Helper()
	rec, err := w.engine.Apply(w.t.Context(), id, ev)
	if err != nil {
		w.t.Errorf("%T on %s: %v", ev, id, err)
	}
	return rec
}

func (w *world) claim(id string) promise.Record {
	w.t.Helper()
	return w.apply(id, promise.Claim{Worker: "w", ClaimID: w.engine.NewNonce()})
}

// fulfil ends the attempt that claim has begun.
func (w *world) fulfil(held promise.Record, out promise.Outcome) {
	w.t.Helper()
	w.apply(held.ID, promise.Fulfil{Version: held.Task.Version, ClaimID: held.Task.ClaimID, SettleID: w.engine.NewNonce(), Outcome: out})
}

// run runs a promise to that outcome.
func (w *world) run(id string, out promise.Outcome) {
	w.t.Helper()
	w.fulfil(w.claim(id), out)
}

func (w *world) put(key, body string) {
	w.t.Helper()
	if err := w.blobs.Put(w.t.Context(), key, strings.NewReader(body), int64(len(body)), promise.Hash{}); err != nil {
		w.t.Error(err)
	}
}

var ok = promise.Outcome{Cause: promise.CauseOK}
