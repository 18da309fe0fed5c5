package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modulate/functions/router/dispatch"
	"modulate/functions/status/read"
	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/workerd/runner"
)

// talking executes the promise a, whose script is does: it is given a client of
// its socket.
func talking(t *testing.T, change func(*Config), does func(c *api.Client, job runner.Job) runner.Result) *world {
	t.Helper()
	w := newWorld(t)
	cfg := Config{
		Engine: w.host.Engine, Name: "w1", Machine: "cpu", Runtimes: map[string][]string{"python": nil},
		API: api.Join(dispatch.New(dispatch.Config{Engine: w.host.Engine}), read.New(read.Config{Engine: w.host.Engine})),
		Runner: &scripts{does: func(ctx context.Context, job runner.Job) runner.Result {
			path := filepath.Join(t.TempDir(), "socket")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Error(err)
				return runner.Result{Code: 1}
			}
			job.Serve(l, filepath.Join(t.TempDir(), "numbers"))
			job.Env = append(job.Env, "MODULATE_SOCKET="+path)
			c := api.NewClient("http://script", api.UnixTransport(path))
			defer c.Close()
			return does(c, job)
		}},
	}
	if change != nil {
		change(&cfg)
	}
	worker, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.submit("a", func(r *promise.Record) {
		r.Call.Retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 3}
	})
	if _, err := worker.Execute(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	return w
}

func call(source string) api.Submit {
	return api.Submit{Machine: "cpu", Script: api.Script{Name: "x.py", Source: &source}}
}

func (w *world) children(id string) (ids []string) {
	w.t.Helper()
	recs, err := w.store.Children(w.t.Context(), id, "", 100)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range recs {
		ids = append(ids, r.ID)
	}
	return ids
}

// Children count in order of submission, attached and detached ones apart, and
// a script that runs again meets those that it had made.
func TestChildrenAreNumbered(t *testing.T) {
	w := talking(t, nil, func(c *api.Client, job runner.Job) runner.Result {
		submit := func(mode, key, want string, existing bool) {
			t.Helper()
			sub := call("pass")
			sub.Mode = mode
			p, done, err := c.Submit(t.Context(), sub, api.SubmitOptions{Key: key})
			if err != nil || p.ID != want || done.Existing != existing {
				t.Errorf("mode %q, key %q: %s (%+v), want %s: %v", mode, key, p.ID, done, want, err)
			}
		}
		again := envOf(job, "MODULATE_ATTEMPT") != "1"
		submit("", "k1", "a.1", again)
		submit("", "k1", "a.1", true) // the answer was lost
		submit("detached", "k2", "detached_a_1", again)
		submit("rpc", "k3", "a.2", again)
		submit("rfi", "k4", "a.3", again)
		submit("detached", "k5", "detached_a_2", again)
		if !again {
			return runner.Result{Code: 1}
		}
		submit("", "k6", "a.4", false)
		return runner.Result{}
	})
	if got := w.children("a"); !slices.Equal(got, []string{"a.1", "a.2", "a.3", "a.4"}) {
		t.Errorf("children %q", got)
	}
	for id, want := range map[string]promise.Mode{"a.1": promise.RFI, "a.2": promise.RPC, "detached_a_1": promise.Detached} {
		rec := w.get(id)
		if parent := rec.Parent; rec.Mode != want || (parent == "a") != (want != promise.Detached) || rec.Owner != "local" {
			t.Errorf("%s: mode %s, parent %q, owner %q", id, rec.Mode, parent, rec.Owner)
		}
	}
}

// A request without a key is a submission of its own, and a child that is
// given its id does not count.
func TestChildrenWithoutKeysAndWithIDs(t *testing.T) {
	w := talking(t, nil, func(c *api.Client, job runner.Job) runner.Result {
		path := envOf(job, "MODULATE_SOCKET")
		body := `{"machine": "cpu", "script": {"name": "x.py", "source": "pass"}%s}`
		for _, extra := range []string{"", "", `, "id": "a.mine"`, `, "id": null`, `, "id": "", "mode": null`} {
			resp := raw(t, path, "POST", "/v1/promises", fmt.Sprintf(body, extra))
			if resp.StatusCode != http.StatusCreated {
				t.Errorf("%q: status %s", extra, resp.Status)
			}
		}
		return runner.Result{}
	})
	if got := w.children("a"); !slices.Equal(got, []string{"a.1", "a.2", "a.3", "a.4", "a.mine"}) {
		t.Errorf("children %q", got)
	}
}

// raw sends a request through a socket and returns the answer, read.
func raw(t *testing.T, path, method, target, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://script"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(api.ParentHeader, "victim 1 00000000000000000000000000000000")
	rt := api.UnixTransport(path)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(read)))
	rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	return resp
}

func TestSocketIsRestricted(t *testing.T) {
	w := talking(t, nil, func(c *api.Client, job runner.Job) runner.Result {
		path := envOf(job, "MODULATE_SOCKET")
		for _, request := range []string{
			"GET /v1/machines", "GET /v1/promises", "GET /v1/promises/a/logs", "GET /v1/promises/a/artifacts",
			"DELETE /v1/promises/a", "PUT /v1/promises/a", "GET /v1/blobs/x", "GET /", "GET /debug/pprof/",
		} {
			method, target, _ := strings.Cut(request, " ")
			resp := raw(t, path, method, target, "")
			var p api.Problem
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: status %s, %v", request, resp.Status, err)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" || p.Type != "urn:modulate:no-such-path" {
				t.Errorf("%s: %s, %+v", request, ct, p)
			}
		}
		for body, want := range map[string]int{
			`{"machine"`:                      http.StatusBadRequest,
			``:                                http.StatusBadRequest,
			`[]`:                              http.StatusBadRequest,
			`{"machine":"cpu","machine":"x"}`: http.StatusBadRequest,
			`{"unheard":1}`:                   http.StatusBadRequest,
			`{"args":["` + strings.Repeat("x", api.MaxBody) + `"]}`: http.StatusRequestEntityTooLarge,
		} {
			if resp := raw(t, path, "POST", "/v1/promises", body); resp.StatusCode != want {
				t.Errorf("%.30s: status %s, want %d", body, resp.Status, want)
			}
		}
		if p, err := c.Get(t.Context(), "a", 0); err != nil || p.ID != "a" {
			t.Errorf("its own promise: %+v, %v", p, err)
		}
		child := call("pass")
		child.ID = "a.x"
		if _, _, err := c.Submit(t.Context(), child, api.SubmitOptions{}); err != nil {
			t.Error(err)
		}
		if p, err := c.Cancel(t.Context(), "a.x"); err != nil || p.State != "rejected_canceled" {
			t.Errorf("cancelling its child: %+v, %v", p, err)
		}
		content := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
		sum, _ := promise.ParseHash("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
		if err := c.PutBlob(t.Context(), sum, 3, content); err != nil {
			t.Errorf("uploading: %v", err)
		}
		return runner.Result{}
	})
	if got := w.children("a"); !slices.Equal(got, []string{"a.x"}) {
		t.Errorf("children %q", got)
	}
}

// endless is a body without an end.
type endless struct{}

// Read is that of [io.Reader].
func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Nothing that a script sends is held whole but a request of a proper size: an
// API may be a proxy that reads a body to sign it.
func TestSocketBoundsBodies(t *testing.T) {
	const more = api.MaxBody + 1
	var read int64
	s := &socket{j: &job{id: "a", w: &Worker{cfg: Config{API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		if read, err = io.Copy(io.Discard, io.LimitReader(r.Body, more)); err != nil {
			w.WriteHeader(api.AsError(err).Status)
		}
	})}}}}
	for request, want := range map[string]int64{
		"POST /v1/promises/a/cancel": api.MaxBody,
		"GET /v1/promises/a":         api.MaxBody,
		"POST /v1/promises":          api.MaxBody,
		"POST /v1/blobs":             api.MaxBody,
		"PUT /v1/blobs/x":            more, // it passes through, as long as it says that it is
	} {
		method, target, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		s.routes().ServeHTTP(w, httptest.NewRequest(method, target, endless{}))
		status := http.StatusRequestEntityTooLarge
		if want == more {
			status = http.StatusOK
		}
		if w.Code != status || read != want {
			t.Errorf("%s: %d after %d bytes, want %d after %d", request, w.Code, read, status, want)
		}
	}
}

// The socket is gone with the attempt, with whoever is still connected.
func TestSocketDiesWithTheAttempt(t *testing.T) {
	var stale net.Conn
	w := talking(t, nil, func(c *api.Client, job runner.Job) runner.Result {
		var err error
		if stale, err = net.Dial("unix", envOf(job, "MODULATE_SOCKET")); err != nil {
			t.Error(err)
		}
		return runner.Result{}
	})
	defer stale.Close()
	if _, err := bufio.NewReader(stale).ReadByte(); err == nil {
		t.Error("a connection outlives the attempt")
	}
	if got := w.children("a"); len(got) != 0 {
		t.Errorf("children %q", got)
	}
}

// A runner that leaves a script to an adopter closes the listener itself: there
// is nothing to warn of.
func TestSocketWhoseRunnerHasClosedIt(t *testing.T) {
	var log logged
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := &socket{j: &job{w: &Worker{log: slog.New(slog.NewTextHandler(&log, nil))}, work: t.Context()}}
	s.serve(l, "")
	s.serving.Wait()
	s.close()
	if log.String() != "" {
		t.Error(log.String())
	}
}

// Who goes on with a job counts its children on, and knows the keys of those
// that there are; a line that was not written whole is none.
func TestChildrenAreCountedOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "numbers")
	var c children
	count := func(key string, detached bool, want string) {
		t.Helper()
		if id, err := c.number("a", key, detached); id != want || err != nil {
			t.Errorf("key %q: %s, %v; want %s", key, id, err, want)
		}
	}
	if err := c.open(path); err != nil {
		t.Fatal(err)
	}
	count("k1", false, "a.1")
	count("", false, "a.2")
	count("k2", true, "detached_a_1")
	c.close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(`{"id":"a.3","ke`)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is cut off does not come back
		c = children{}
		if err := c.open(path); err != nil {
			t.Fatal(err)
		}
		count("k2", true, "detached_a_1")
		count("k1", false, "a.1")
		count("k3", false, "a.3")
		c.close()
	}
	if id, err := c.number("a", "k4", false); err == nil {
		t.Errorf("a number that could not be kept: %s", id)
	}
}

// Who executes the children is told of each, before anyone waits for it.
func TestOnSubmit(t *testing.T) {
	told := make(chan string, 10)
	w := talking(t, func(c *Config) { c.OnSubmit = func(id string) { told <- id } }, func(c *api.Client, job runner.Job) runner.Result {
		p, done, err := c.Submit(t.Context(), call("pass"), api.SubmitOptions{Key: "k", Wait: 20 * time.Second})
		if err != nil || !done.Accepted || p.State != "pending" {
			t.Errorf("%+v, %+v, %v", p, done, err)
		}
		if id := <-told; id != "a.1" {
			t.Errorf("told of %q", id)
		}
		bad := call("pass")
		bad.Machine = "nowhere"
		if _, _, err := c.Submit(t.Context(), bad, api.SubmitOptions{Key: "l"}); !errors.Is(err, api.ErrInvalid) {
			t.Error(err)
		}
		return runner.Result{}
	})
	if len(told) != 0 {
		t.Errorf("told of %q, which was refused", <-told)
	}
	if rec := w.get("a.1"); rec.Mode != promise.RPC {
		t.Errorf("mode %s, want that of one who waits", rec.Mode)
	}
}

func TestWithField(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{}`, `{"id":"x"}`},
		{` { } `, `{"id":"x" }`},
		{`{"a":1}`, `{"id":"x","a":1}`},
		{"{\n \"a\": {\"id\": 2}}\n", "{\"id\":\"x\",\n \"a\": {\"id\": 2}}"},
		{`{"a":1,"a":2}`, `{"id":"x","a":1,"a":2}`},
		{`{"b":1,"id":null,"a":2}`, `{"id":"x","a":2,"b":1}`},
		{`{"id":""}`, `{"id":"x"}`},
	} {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.body), &fields); err != nil {
			t.Fatal(err)
		}
		if got := string(withField([]byte(c.body), fields, "id", "x")); got != c.want {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
	}
}
