package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/blob"
	"modulate/internal/delivery"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

type object = map[string]any

// signer stands for account.Transport: the stage takes only what it carried.
type signer struct{}

func (signer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != protocol.WorkPath {
		return nil, fmt.Errorf("a machine may not POST %s", r.URL.Path)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "signed")
	return http.DefaultTransport.RoundTrip(r)
}

// world is a stage, and a gateway to it. The stage's function pushes nothing:
// what a worker is sent came out of the queue.
type world struct {
	t       *testing.T
	engine  *engine.Engine
	gateway *httptest.Server
	held    string
}

func newWorld(t *testing.T) *world {
	s := store.NewMemory()
	e := &engine.Engine{Store: s, Queue: queue.NewMemory(), Blobs: blob.NewMemory(), Alarm: 90 * time.Second}
	config := protocol.Config{Engine: e, Search: s, Owner: func(r *http.Request) (string, error) {
		if r.Header.Get("Authorization") != "signed" {
			return "", fmt.Errorf("who is there?")
		}
		return "worker", nil
	}}
	stage := httptest.NewServer(protocol.New(config))
	t.Cleanup(stage.Close)
	w := &world{t: t, engine: e, held: filepath.Join(t.TempDir(), "held")}
	w.open(stage.URL, config)
	return w
}

func (w *world) open(stage string, config protocol.Config) {
	hub, err := delivery.New(delivery.Config{Engine: w.engine, URL: "http://gateway", Held: w.held})
	if err != nil {
		w.t.Fatal(err)
	}
	w.gateway = httptest.NewServer(New(Config{
		URL: stage + "/", Signed: signer{}, Hub: hub, Rest: protocol.New(config), Log: slog.New(slog.DiscardHandler),
	}))
	w.t.Cleanup(func() {
		w.gateway.CloseClientConnections()
		w.gateway.Close()
		hub.Close()
	})
}

func (w *world) post(kind string, data object) (int, object) {
	w.t.Helper()
	body, err := json.Marshal(object{"kind": kind, "head": object{"corrId": "c", "version": protocol.Version}, "data": data})
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.Post(w.gateway.URL+"/", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Data any }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		w.t.Fatal(err)
	}
	reply, _ := got.Data.(object)
	return resp.StatusCode, reply
}

// poll connects a worker, whose messages come out of the channel.
func (w *world) poll(path string) <-chan protocol.Message {
	w.t.Helper()
	resp, err := http.Get(w.gateway.URL + path)
	if err != nil || resp.StatusCode != 200 {
		w.t.Fatalf("connecting: %v", err)
	}
	w.t.Cleanup(func() { resp.Body.Close() })
	messages := make(chan protocol.Message, 100)
	go func() {
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			var m protocol.Message
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && json.Unmarshal([]byte(data), &m) == nil {
				messages <- m
			}
		}
	}()
	return messages
}

func (w *world) next(messages <-chan protocol.Message, kind string) object {
	w.t.Helper()
	select {
	case m := <-messages:
		if m.Kind != kind {
			w.t.Fatalf("sent %+v, want %s", m, kind)
		}
		return m.Data
	case <-time.After(20 * time.Second):
		w.t.Fatalf("no %s comes", kind)
		return nil
	}
}

func (w *world) depth() int {
	d, err := w.engine.Queue.Depth(w.t.Context(), "sdk:gpu")
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Visible + d.InFlight + d.Delayed
}

// TestLife: a task goes through a gateway from its creation to the end that its
// listener hears of.
func TestLife(t *testing.T) {
	w := newWorld(t)
	worker, client := w.poll("/poll/gpu/w"), w.poll("/poll/default/c")
	later := time.Now().Add(time.Hour).UnixMilli()
	create := object{"id": "a", "timeoutAt": later, "tags": object{"resonate:target": "poll://any@gpu"}}
	if status, got := w.post("promise.create", create); status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	w.post("promise.register_listener", object{"awaited": "a", "address": "poll://uni@default/c"})
	if task := w.next(worker, "execute")["task"].(object); task["id"] != "a" || task["version"] != 0.0 {
		t.Errorf("sent %v", task)
	}
	if status, got := w.post("task.acquire", object{"id": "a", "version": 0, "pid": "w", "ttl": 30_000}); status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	// A heartbeat that names no task means those of that worker.
	was, _ := w.engine.Get(t.Context(), "a")
	for rec := was; rec.Task.LeaseEnd == was.Task.LeaseEnd; rec, _ = w.engine.Get(t.Context(), "a") {
		if status, _ := w.post("task.heartbeat", object{"pid": "w", "tasks": []any{}}); status != 200 {
			t.Fatal(status)
		}
	}
	if w.depth() != 1 {
		t.Error("the message of a task that is held is gone")
	}
	action := object{"kind": "promise.settle", "head": object{}, "data": object{"id": "a", "state": "resolved"}}
	if status, got := w.post("task.fulfill", object{"id": "a", "version": 1, "action": action}); status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	if w.depth() != 0 {
		t.Error("the message of a task that is done is still there")
	}
	if p := w.next(client, "unblock")["promise"].(object); p["id"] != "a" || p["state"] != "resolved" {
		t.Errorf("told %v", p)
	}
}

// TestSleep: a timer made under a fence ends by the delayed message that goes to
// the group of its task, though nothing sweeps.
func TestSleep(t *testing.T) {
	w := newWorld(t)
	worker := w.poll("/poll/gpu/w")
	later := time.Now().Add(time.Hour).UnixMilli()
	create := object{"kind": "promise.create", "head": object{}, "data": object{"id": "wf", "timeoutAt": later, "tags": object{"resonate:target": "poll://any@gpu"}}}
	w.post("task.create", object{"pid": "w", "ttl": 30_000, "action": create})
	timer := object{"kind": "promise.create", "head": object{}, "data": object{"id": "wf.1", "timeoutAt": time.Now().Add(time.Second).UnixMilli(), "tags": object{"resonate:timer": "true"}}}
	if status, got := w.post("task.fence", object{"id": "wf", "version": 1, "action": timer}); status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	await := object{"kind": "promise.register_callback", "head": object{}, "data": object{"awaited": "wf.1", "awaiter": "wf"}}
	if status, got := w.post("task.suspend", object{"id": "wf", "version": 1, "actions": []any{await}}); status != 200 {
		t.Fatalf("%d %v", status, got)
	}
	if task := w.next(worker, "execute")["task"].(object); task["id"] != "wf" {
		t.Errorf("sent %v", task)
	}
	if rec, err := w.engine.Get(t.Context(), "wf.1"); err != nil || rec.State != promise.Resolved {
		t.Errorf("the timer is %s, %v", rec.State, err)
	}
}

// TestAway: what the stage does not answer is no answer of the protocol's; what
// is not the protocol's is answered here.
func TestAway(t *testing.T) {
	w := newWorld(t)
	w.gateway.Close()
	w.open("http://127.0.0.1:1", protocol.Config{Engine: w.engine, Search: w.engine.Store.(store.Searcher)})
	resp, err := http.Post(w.gateway.URL+"/", "application/json", strings.NewReader(`{}`))
	if err != nil || resp.StatusCode != http.StatusBadGateway {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err := http.Get(w.gateway.URL + "/promises"); err != nil || resp.StatusCode != http.StatusGone {
		t.Errorf("%v, %v", resp, err)
	}
}
