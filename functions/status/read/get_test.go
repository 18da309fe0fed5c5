package read

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

func TestGet(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	w.create("x.1")
	for _, id := range []string{"x", "x.1"} {
		var p api.Promise
		rec, _ := w.get(&p, "/v1/promises/"+id)
		if rec.Code != 200 || p.ID != id || p.State != "pending" || rec.Header().Get("Retry-After") != "" {
			t.Errorf("got %d %s", rec.Code, rec.Body)
		}
	}
	w.refused("/v1/promises/y", promise.ErrNotFound, "id", `there is no promise "y"`)
	w.refused("/v1/promises/a%2Fb", promise.ErrNotFound, "id", "there is no promise")
	w.refused("/v1/promises/x?wait=3", api.ErrInvalid, "wait", "unknown parameter")
	w.refused("/v1/promises/x", api.ErrInvalid, "Prefer", "want whole seconds", "Prefer", "wait=3.5")
	w.owner = "bob"
	for _, path := range []string{"", "/logs", "/artifacts", "/artifacts/a"} {
		w.refused("/v1/promises/x"+path, promise.ErrNotFound, "id", `there is no promise "x"`)
	}
}

func TestGetWaits(t *testing.T) {
	for _, tt := range []struct {
		prefer string
		ends   time.Duration
		took   time.Duration
		state  string
		after  string
	}{
		{"", 0, 0, "pending", "7"},
		{"wait=0", 0, 0, "pending", "7"},
		{"wait=10", 3 * time.Second, 3 * time.Second, "resolved", ""},
		{"wait=10", 0, 10 * time.Second, "pending", "7"},
		{"wait=3600", 0, api.MaxWait * time.Second, "pending", "7"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.open(Config{RetryAfter: 7 * time.Second})
			w.create("x")
			if tt.ends > 0 {
				time.AfterFunc(tt.ends, func() { w.run("x", ok) })
			}
			var p api.Promise
			began := time.Now()
			rec, _ := w.get(&p, "/v1/promises/x", "Prefer", tt.prefer)
			if took := time.Since(began); rec.Code != 200 || p.State != tt.state || took != tt.took || rec.Header().Get("Retry-After") != tt.after {
				t.Errorf("%q: got %d %s after %s, Retry-After %q", tt.prefer, rec.Code, p.State, took, rec.Header().Get("Retry-After"))
			}
		})
	}
}

// A read past the deadline settles before it answers, waited for or not.
func TestGetPastDeadline(t *testing.T) {
	for _, prefer := range []string{"", "wait=10"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.create("x", func(rec *promise.Record) { rec.DeadlineAt = w.engine.Time().Add(5 * time.Second) })
			if prefer == "" {
				time.Sleep(5 * time.Second)
			}
			var p api.Promise
			w.get(&p, "/v1/promises/x", "Prefer", prefer)
			stored, err := w.store.Get(t.Context(), "x")
			if p.State != "rejected_timedout" || p.Outcome.Cause != "deadline" || err != nil || stored.State != promise.TimedOut {
				t.Errorf("told %+v; stored %s, %v", p, stored.State, err)
			}
		})
	}
}

// A gateway's own deadline ends the wait a second before.
func TestGetWaitsWithinTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("x")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, "GET", "/v1/promises/x", nil)
		r.Header.Set("Prefer", "wait=20")
		rec := httptest.NewRecorder()
		began := time.Now()
		w.handler.ServeHTTP(rec, r)
		if took := time.Since(began); rec.Code != 200 || took != 4*time.Second {
			t.Errorf("got %d after %s", rec.Code, took)
		}
	})
}

func TestGetFromScript(t *testing.T) {
	w := newWorld(t)
	w.create("p")
	held := w.claim("p")
	w.create("x")
	header := api.FormatParent(engine.Parent{ID: "p", Version: held.Task.Version, Claim: held.Task.ClaimID})
	w.owner = "the worker's"
	var p api.Promise
	if rec, _ := w.get(&p, "/v1/promises/x", api.ParentHeader, header); rec.Code != 200 || p.ID != "x" {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
	w.refused("/v1/promises/x", promise.ErrNotFound, "id", "")
	w.refused("/v1/promises/x", api.ErrForbidden, api.ParentHeader, "", api.ParentHeader, "q 1 "+held.Task.ClaimID.String())
}

// silent is a store that fails.
type silent struct{ *store.Memory }

var errLine = errors.New("the line is dead")

// Get fails.
func (silent) Get(context.Context, string) (promise.Record, error) {
	return promise.Record{}, errLine
}

// List fails.
func (silent) List(context.Context, store.Query) (store.Page, error) { return store.Page{}, errLine }

func TestReadFaults(t *testing.T) {
	w := newWorld(t)
	w.engine.Store = silent{w.store}
	w.open(Config{})
	for _, path := range []string{"/v1/promises/x", "/v1/promises", "/v1/promises/x/logs", "/v1/promises/x/artifacts/a"} {
		w.refused(path, api.ErrUnavailable, "", "not known")
	}
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	for path, want := range map[string]error{"/v1/blobs": api.ErrMethod, "/v1/promises/x/cancel": api.ErrMethod, "/": api.ErrRoute, "/v1/promises/x/y": api.ErrRoute} {
		w.refused(path, want, "", "")
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/v1/promises/x", nil))
	if rec.Code != 200 {
		t.Errorf("HEAD: %d", rec.Code)
	}
}
