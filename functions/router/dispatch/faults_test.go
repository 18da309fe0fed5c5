package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

func newRequest(ctx context.Context) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
}

// Each of these ports fails at one thing.
type (
	noCreate struct {
		*store.Memory
		err error
	}
	noMachines struct {
		*queue.Memory
		err error
	}
	noSend struct {
		*queue.Memory
		err error
	}
	stalled struct{ *store.Memory }
	noPut   struct {
		*blob.Memory
		err error
	}
)

// Create fails.
func (p noCreate) Create(context.Context, promise.Record) error { return p.err }

// Create answers nothing.
func (p stalled) Create(ctx context.Context, _ promise.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// Replace answers nothing.
func (p stalled) Replace(ctx context.Context, _ promise.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// Machines fails.
func (p noMachines) Machines(context.Context) ([]string, error) { return nil, p.err }

// Send fails.
func (p noSend) Send(context.Context, string, []byte, time.Duration) error { return p.err }

// Put fails.
func (p noPut) Put(context.Context, string, io.Reader, int64, promise.Hash) error { return p.err }

// What the ports say, and what the submitter hears.
func TestSubmitFaults(t *testing.T) {
	full, throttled := fmt.Errorf("writing: %w", store.ErrFull), fmt.Errorf("writing: %w", store.ErrThrottled)
	tests := []struct {
		name   string
		breaks func(*world, error)
		err    error
		status int
		is     error
		after  string
	}{
		{"store throttled", func(w *world, err error) { w.engine.Store = noCreate{w.store, err} }, throttled, 429, store.ErrThrottled, "1"},
		{"store full", func(w *world, err error) { w.engine.Store = noCreate{w.store, err} }, full, 507, store.ErrFull, ""},
		{"store unknown", func(w *world, err error) { w.engine.Store = noCreate{w.store, err} }, errLine, 503, api.ErrUnavailable, "1"},
		{"blobs full", func(w *world, err error) { w.engine.Blobs = noPut{w.blobs, err} }, blob.ErrFull, 507, blob.ErrFull, ""},
		{"blobs unknown", func(w *world, err error) { w.engine.Blobs = noPut{w.blobs, err} }, errLine, 503, api.ErrUnavailable, "1"},
		{"blobs throttled", func(w *world, err error) { w.engine.Blobs = noPut{w.blobs, err} }, blob.ErrThrottled, 429, blob.ErrThrottled, "1"},
		{"queues unknown", func(w *world, err error) { w.engine.Queue = noMachines{w.queue, err} }, errLine, 503, api.ErrUnavailable, "1"},
		{"store not deployed", func(w *world, err error) { w.engine.Store = noCreate{w.store, err} }, store.ErrDeployment, 500, store.ErrDeployment, ""},
		{"blobs not deployed", func(w *world, err error) { w.engine.Blobs = noPut{w.blobs, err} }, blob.ErrDeployment, 500, blob.ErrDeployment, ""},
		{"queues closed", func(w *world, err error) { w.engine.Queue = noMachines{w.queue, err} }, queue.ErrDeployment, 500, queue.ErrDeployment, ""},
		{"queues throttled", func(w *world, err error) { w.engine.Queue = noMachines{w.queue, err} }, queue.ErrThrottled, 429, queue.ErrThrottled, "1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.breaks(w, tt.err)
			w.open()
			a := w.submit(call(nil))
			refused(t, a, tt.is, "", "")
			if a.status != tt.status || a.header.Get("Retry-After") != tt.after || w.records() != 0 {
				t.Errorf("got %d, Retry-After %q, %d records", a.status, a.header.Get("Retry-After"), w.records())
			}
			if strings.Contains(a.body, "line is dead") {
				t.Errorf("it tells what happened inside: %s", a.body)
			}
		})
	}
}

// A store that does not answer is given up, in time for a caller that has a
// deadline to hear of it, and whether or not it stays.
func TestStalledStore(t *testing.T) {
	for _, tt := range []struct {
		name     string
		deadline time.Duration // of the caller; 0: none
		want     time.Duration
	}{{"no deadline", 0, finishTime}, {"a near one", 10 * time.Second, 9 * time.Second}, {"a far one", time.Minute, finishTime}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.must(named("x"))
				w.engine.Store = stalled{w.store}
				d := &dispatcher{Service: &api.Service{Engine: w.engine}, machines: machines{queue: w.queue, seen: map[string]bool{}}, leases: leases{time.Minute, time.Second}}
				took := func(what func(*api.Request) error) {
					t.Helper()
					ctx, cancel := context.WithCancel(t.Context())
					if tt.deadline > 0 {
						ctx, cancel = context.WithTimeout(t.Context(), tt.deadline)
					}
					time.AfterFunc(time.Second, cancel) // the caller goes away
					r := newRequest(ctx)
					r.SetPathValue("id", "x")
					began := time.Now()
					err := what(&api.Request{Request: r, Caller: api.Caller{Owner: "alice"}})
					if got := time.Since(began); got != tt.want || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%v after %v, want it after %v", err, got, tt.want)
					}
				}
				took(func(r *api.Request) error { _, err := d.submit(r, named("y")); return err })
				took(func(r *api.Request) error { _, err := d.cancel(r); return err })
			})
		})
	}
}

// A message that could not be sent is the sweep's business, not the
// submitter's.
func TestSubmitUnsent(t *testing.T) {
	w := newWorld(t)
	w.engine.Queue = noSend{w.queue, errLine}
	w.open()
	if a := w.submit(named("x")); a.status != 201 || w.get("x").DueAt == 0 {
		t.Errorf("got %d %s; due %d", a.status, a.body, w.get("x").DueAt)
	}
}

// A machine that was seen once is known for good, its queues reachable or not.
func TestMachinesAreLookedUpOnce(t *testing.T) {
	w := newWorld(t)
	q := &noMachines{Memory: w.queue}
	m := machines{queue: q, seen: make(map[string]bool)}
	refused := func(name string) bool { return m.check(t.Context(), name) != nil }
	if !refused("cpu") || m.seen["cpu"] {
		t.Error("a machine that nobody has is known")
	}
	m.queue = w.queue
	if refused("cpu") {
		t.Error("a machine with a queue is not known")
	}
	q.err = errLine
	m.queue = q
	if refused("cpu") {
		t.Error("it is not known any more")
	}
	if err := w.store.Announce(t.Context(), store.Presence{Worker: "w", Machine: "gpu"}); err != nil {
		t.Fatal(err)
	}
	m.roster = w.store
	if refused("gpu") {
		t.Error("a machine that had a worker is not known while the queues are not reachable")
	}
	if err := m.check(t.Context(), "tpu"); !errors.Is(err, errLine) {
		t.Errorf("a machine that nobody knows, with the queues not reachable: %v", err)
	}
}
