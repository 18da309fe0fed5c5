package delivery

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// world is a hub behind a server, and the engine that works for it.
type world struct {
	*engine.Engine
	t      *testing.T
	hub    *Hub
	server *httptest.Server
}

func newWorld(t *testing.T) *world {
	e := &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory(), Blobs: blob.NewMemory()}
	hub, err := New(Config{Engine: e, URL: "http://here", Held: filepath.Join(t.TempDir(), "held")})
	if err != nil {
		t.Fatal(err)
	}
	e.Notify = hub.Notify
	mux := http.NewServeMux()
	mux.Handle("GET /poll/{group}/{pid}", hub)
	w := &world{Engine: e, t: t, hub: hub, server: httptest.NewServer(mux)}
	t.Cleanup(func() {
		w.server.CloseClientConnections()
		w.server.Close()
		hub.Close()
	})
	return w
}

// worker is a connection; what it is sent comes out of messages.
type worker struct {
	messages chan protocol.Message
	leave    context.CancelFunc
	left     chan struct{}
}

func (w *world) connect(group, pid string) *worker {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.server.URL+"/poll/"+group+"/"+pid, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("connecting: %v", err)
	}
	c := &worker{messages: make(chan protocol.Message, 1000), leave: leave, left: make(chan struct{})}
	go func() {
		defer close(c.left)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var m protocol.Message
				if json.Unmarshal([]byte(data), &m) == nil {
					c.messages <- m
				}
			}
		}
	}()
	return c
}

// next returns the kind and the id of the next message.
func (w *world) next(c *worker) string {
	w.t.Helper()
	select {
	case m := <-c.messages:
		of := m.Data["task"]
		if m.Kind == "unblock" {
			of = m.Data["promise"]
		}
		return fmt.Sprint(m.Kind, " ", of.(map[string]any)["id"])
	case <-time.After(patience):
		w.t.Fatal("nothing comes")
		return ""
	}
}

// gone waits until the hub has no connection of a group.
func (w *world) gone(c *worker, group string) {
	w.t.Helper()
	c.leave()
	<-c.left
	for over := time.Now().Add(patience); time.Now().Before(over); {
		w.hub.mu.Lock()
		n := len(w.hub.groups)
		w.hub.mu.Unlock()
		if n == 0 {
			return
		}
	}
	w.t.Fatalf("%s is still connected", group)
}

func (w *world) create(id, target string) {
	w.t.Helper()
	rec := promise.NewRemote("local", id, w.Time().Add(time.Hour), promise.Protocol{Tags: map[string]string{promise.TagTarget: target}})
	if _, err := w.Create(w.t.Context(), rec, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) want(c *worker, want string) {
	w.t.Helper()
	if got := w.next(c); got != want {
		w.t.Errorf("sent %q, want %q", got, want)
	}
}

// TestAddresses: anycast goes to whom it prefers, else to anyone; unicast to
// nobody else; and what nobody was there for is sent to who comes.
func TestAddresses(t *testing.T) {
	w := newWorld(t)
	w.create("late", "poll://any@g")
	a := w.connect("g", "a")
	w.want(a, "execute late")
	b := w.connect("g", "b")
	for n := range 3 {
		id := fmt.Sprint("prefers", n)
		w.create(id, "poll://any@g/b")
		w.want(b, "execute "+id)
	}
	w.create("only", "poll://uni@g/b")
	w.want(b, "execute only")
	w.create("absent", "poll://any@g/nobody")
	select {
	case m := <-a.messages:
		if fmt.Sprint(m.Data["task"].(map[string]any)["id"]) != "absent" || m.Head["serverUrl"] != "http://here" {
			t.Errorf("a was sent %+v", m)
		}
	case m := <-b.messages:
		if fmt.Sprint(m.Data["task"].(map[string]any)["id"]) != "absent" {
			t.Errorf("b was sent %+v", m)
		}
	case <-time.After(patience):
		t.Error("who prefers somebody who is not there is sent to nobody")
	}
}

// TestDropped: what a worker did not take before its connection broke is sent
// to the next one, at once; what it took is not.
func TestDropped(t *testing.T) {
	w := newWorld(t)
	a := w.connect("g", "a")
	for _, id := range []string{"taken", "lost"} {
		w.create(id, "poll://any@g")
		w.want(a, "execute "+id)
	}
	rec, err := w.Apply(t.Context(), "taken", promise.Acquire{Worker: "a", Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	w.hub.Acquired("taken", rec.Task.Version, "a", time.Minute)
	w.gone(a, "g")
	b := w.connect("g", "b")
	w.want(b, "execute lost")
	if got := w.hub.Held("a"); !slices.Equal(got, []protocol.Held{{ID: "taken", Version: 1}}) {
		t.Errorf("a holds %v", got)
	}
	w.hub.Left("taken", 1)
	if d, err := w.Queue.Depth(t.Context(), "sdk:g"); err != nil || d.Visible+d.InFlight+d.Delayed != 1 {
		t.Errorf("messages: %+v, %v; want that of lost", d, err)
	}
	if got := w.hub.Held("a"); got != nil {
		t.Errorf("a holds %v still", got)
	}
}

// TestStale: a message that asks for nothing any more is deleted, or comes back
// when its task may be taken again.
func TestStale(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"settled", "halted", "held", "wanted"} {
		w.create(id, "poll://any@g")
	}
	for id, ev := range map[string]promise.Event{
		"settled": promise.Settle{State: promise.Resolved}, "halted": promise.Halt{}, "held": promise.Acquire{Worker: "x", Lease: time.Minute},
	} {
		if _, err := w.Apply(t.Context(), id, ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Queue.Send(t.Context(), "sdk:g", queue.Encode("nowhere", 0), 0); err != nil {
		t.Fatal(err)
	}
	a := w.connect("g", "a")
	w.want(a, "execute wanted")
	w.create("last", "poll://any@g")
	w.want(a, "execute last")
	if d, err := w.Queue.Depth(t.Context(), "sdk:g"); err != nil || d.Visible != 0 || d.InFlight != 3 {
		t.Errorf("messages: %+v, %v; want those of held, wanted and last", d, err)
	}
}

// TestUnblock: who listens is told, by whichever process the end comes, also if
// it was away, or registered with a process before.
func TestUnblock(t *testing.T) {
	w := newWorld(t)
	elsewhere := *w.Engine
	elsewhere.Notify = nil
	a := w.connect("g", "a")
	settle := func(id string, e *engine.Engine) {
		t.Helper()
		if _, err := e.Apply(t.Context(), id, promise.Settle{State: promise.Resolved}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"here", "elsewhere", "away", "before"} {
		w.create(id, "poll://any@nobody")
	}
	to := promise.Address{Group: "g", ID: "a", Only: true}
	w.hub.Listening("here", to)
	settle("here", w.Engine)
	w.want(a, "unblock here")
	w.hub.Listening("elsewhere", to)
	settle("elsewhere", &elsewhere)
	w.want(a, "unblock elsewhere")

	w.hub.Listening("away", to)
	w.gone(a, "g")
	settle("away", &elsewhere)
	a = w.connect("g", "a")
	var got []string
	for range 3 { // the first two may not have been read, for all that the server knows
		got = append(got, w.next(a))
	}
	if !slices.Contains(got, "unblock away") {
		t.Errorf("after its return a is told %v", got)
	}

	if _, err := w.Apply(t.Context(), "before", promise.Listen{Address: "poll://uni@g/a"}); err != nil {
		t.Fatal(err)
	}
	settle("before", w.Engine)
	w.want(a, "unblock before")
}

// TestHeldIsKept: who holds what outlives the process, a torn line included.
func TestHeldIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "held")
	h, err := openHeld(path)
	if err != nil {
		t.Fatal(err)
	}
	h.acquired("a", 1, "w")
	h.acquired("b", 1, "w")
	h.acquired("a", 2, "v")
	h.left("b", 1)
	h.left("unknown", 1)
	h.file.WriteString(`{"id":"torn","ver`)
	h.close()
	if h, err = openHeld(path); err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if got := h.of("v"); !slices.Equal(got, []protocol.Held{{ID: "a", Version: 2}}) || h.of("w") != nil || len(h.byID) != 1 {
		t.Errorf("v holds %v, w %v", got, h.of("w"))
	}
}
