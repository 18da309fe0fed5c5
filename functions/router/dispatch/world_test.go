package dispatch

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// world is a router over memory.
type world struct {
	t       *testing.T
	store   *store.Memory
	queue   *queue.Memory
	blobs   *blob.Memory
	engine  *engine.Engine
	handler http.Handler
	owner   string // who calls
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: store.NewMemory(), queue: queue.NewMemory("cpu", "gpu"), blobs: blob.NewMemory(), owner: "alice"}
	w.engine = &engine.Engine{Store: w.store, Queue: w.queue, Blobs: w.blobs}
	w.open()
	return w
}

// open makes the handler anew, over the engine's ports as they are now.
func (w *world) open() {
	w.handler = through(New(Config{Engine: w.engine, Roster: w.store, Owner: func(*http.Request) (string, error) { return w.owner, nil }}))
}

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	body    string
	promise api.Promise
	problem api.Problem
}

// send sends a request with headers given as name, value, name, value.
func (w *world) send(method, path, body string, headers ...string) answer {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	a := answer{status: rec.Code, header: rec.Header(), body: rec.Body.String()}
	var into any = &a.promise
	if a.header.Get("Content-Type") == "application/problem+json" {
		into = &a.problem
	}
	if a.body != "" {
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			w.t.Fatalf("%s %s: %s: %v", method, path, a.body, err)
		}
	}
	return a
}

func (w *world) submit(sub api.Submit, headers ...string) answer {
	w.t.Helper()
	body, err := json.Marshal(sub)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.send("POST", "/v1/promises", string(body), headers...)
}

// must is submit for what is set up.
func (w *world) must(sub api.Submit, headers ...string) answer {
	w.t.Helper()
	a := w.submit(sub, headers...)
	if a.status >= 300 {
		w.t.Fatalf("submitting %+v: %d %s", sub, a.status, a.body)
	}
	return a
}

// call is the least that can be submitted, changed by change.
func call(change func(*api.Submit)) api.Submit {
	source := "print(1)\n"
	sub := api.Submit{Machine: "cpu", Script: api.Script{Name: "a.py", Source: &source}}
	if change != nil {
		change(&sub)
	}
	return sub
}

func named(id string) api.Submit { return call(func(s *api.Submit) { s.ID = id }) }

// upload keeps content, and returns its sha256.
func (w *world) upload(content string) string {
	w.t.Helper()
	sum := promise.Hash(sha256.Sum256([]byte(content)))
	if err := w.blobs.Put(w.t.Context(), blob.ContentKey(sum), strings.NewReader(content), int64(len(content)), sum); err != nil {
		w.t.Fatal(err)
	}
	return sum.String()
}

// claim takes a promise's task, and returns the header of its script.
func (w *world) claim(id string) (header string, held promise.Record) {
	w.t.Helper()
	held = w.apply(id, promise.Claim{Worker: "w", ClaimID: w.engine.NewNonce()})
	return api.FormatParent(engine.Parent{ID: id, Version: held.Task.Version, Claim: held.Task.ClaimID}), held
}

// finish runs a promise to exit code 0.
func (w *world) finish(id string) {
	w.t.Helper()
	_, held := w.claim(id)
	w.apply(id, promise.Fulfil{Version: held.Task.Version, ClaimID: held.Task.ClaimID, SettleID: w.engine.NewNonce(), Outcome: promise.Outcome{Cause: promise.CauseOK}})
}

func (w *world) apply(id string, ev promise.Event) promise.Record {
	w.t.Helper()
	rec, err := w.engine.Apply(w.t.Context(), id, ev)
	if err != nil {
		w.t.Errorf("%T on %s: %v", ev, id, err)
	}
	return rec
}

func (w *world) get(id string) promise.Record {
	w.t.Helper()
	rec, err := w.store.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatalf("reading %s: %v", id, err)
	}
	return rec
}

// records, blobKeys and messages count what is stored.
func (w *world) records() (n int) {
	w.t.Helper()
	for _, owner := range []string{"alice", "bob"} {
		page, err := w.store.List(w.t.Context(), store.Query{Owner: owner, Limit: 1000})
		if err != nil {
			w.t.Fatal(err)
		}
		n += len(page.Records)
	}
	return n
}

func (w *world) blobKeys() int {
	w.t.Helper()
	infos, err := w.blobs.List(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(infos)
}

func (w *world) messages() int {
	w.t.Helper()
	d, err := w.queue.Depth(w.t.Context(), "cpu")
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Visible + d.Delayed + d.InFlight
}

// refused checks that a was refused as sentinel, at where, saying so.
func refused(t *testing.T, a answer, sentinel error, where, says string) {
	t.Helper()
	e := &api.Error{Problem: a.problem}
	if !errors.Is(e, sentinel) || a.problem.Where != where || !strings.Contains(a.problem.Detail, says) || a.problem.Status != a.status {
		t.Errorf("got %d %s\nwant %v at %q: ...%s...", a.status, a.body, sentinel, where, says)
	}
}

func ptr[T any](v T) *T { return &v }

const day = 24 * time.Hour
