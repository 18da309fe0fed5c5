package api_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"modulate/functions/router/dispatch"
	"modulate/functions/status/read"
	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// serve is the whole API over memory, behind a real connection.
func serve(t *testing.T) (*engine.Engine, *api.Client) {
	t.Helper()
	s := store.NewMemory()
	e := &engine.Engine{Store: s, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	h := api.Join(dispatch.New(dispatch.Config{Engine: e, Roster: s}), read.New(read.Config{Engine: e, Roster: s}))
	srv := httptest.NewServer(api.Loopback(h))
	c := api.NewClient(srv.URL, nil)
	c.Patience = -1
	t.Cleanup(func() {
		c.Close()
		srv.Close()
	})
	return e, c
}

// run is a worker: it claims id, writes, and ends it.
func run(t *testing.T, e *engine.Engine, id, output string) {
	t.Helper()
	claim := e.NewNonce()
	held, err := e.Apply(t.Context(), id, promise.Claim{Worker: "w", ClaimID: claim})
	if err != nil {
		t.Error(err)
		return
	}
	list := `[{"name":"d/a.txt","size":3,"sha256":"ab"}]`
	put(t, e, blob.ArtifactKey(id, held.Task.Version, 0), "abc")
	put(t, e, blob.LogKey(id, held.Task.Version, "stdout", 0), output)
	_, err = e.Apply(t.Context(), id, promise.Fulfil{Version: held.Task.Version, ClaimID: claim, SettleID: e.NewNonce(), Outcome: promise.Outcome{
		Cause: promise.CauseOK, Result: promise.Body{Size: 7, Inline: []byte(`{"a":1}`)},
		Stdout:    promise.Stream{Size: int64(len(output)), Tail: []byte(output), Stored: true},
		Artifacts: promise.Body{Size: int64(len(list)), Inline: []byte(list)},
	}})
	if err != nil {
		t.Error(err)
	}
}

func put(t *testing.T, e *engine.Engine, key, body string) {
	t.Helper()
	if err := e.Blobs.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), promise.Hash{}); err != nil {
		t.Error(err)
	}
}

// A submission's whole way, as the CLI goes it.
func TestJourney(t *testing.T) {
	e, c := serve(t)
	ctx := t.Context()
	script := []byte("print('hello')\n")
	sum := promise.Hash(sha256.Sum256(script))
	for range 2 {
		if err := c.PutBlob(ctx, sum, int64(len(script)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(script)), nil }); err != nil {
			t.Fatal(err)
		}
	}
	sub := api.Submit{Machine: "cpu", Script: api.Script{Name: "hello.py", SHA256: sum.String()}}
	p, done, err := c.Submit(ctx, sub, api.SubmitOptions{Async: true})
	if err != nil || !done.Accepted || p.State != "pending" {
		t.Fatalf("got %+v, %+v, %v", p, done, err)
	}
	ended := make(chan api.Promise, 1)
	go func() {
		end, err := c.WaitTerminal(ctx, p.ID, nil)
		if err != nil {
			t.Error(err)
		}
		ended <- end
	}()
	run(t, e, p.ID, "hello\n")
	if end := <-ended; end.State != "resolved" || string(end.Outcome.Result) != `{"a":1}` || *end.Outcome.ExitCode != 0 || end.Attempts[0].Worker != "w" {
		t.Errorf("got %+v", end)
	}
	sub.ID = p.ID
	if again, done, err := c.Submit(ctx, sub, api.SubmitOptions{Wait: time.Second}); err != nil || !done.Existing || again.State != "resolved" {
		t.Errorf("again: %+v, %+v, %v", again, done, err)
	}
	page, err := c.Log(ctx, p.ID, api.LogQuery{Stream: "stdout", Offset: 1, Wait: time.Second})
	if err != nil || string(page.Body) != "ello\n" || page.Offset != 1 || page.Next != 6 || page.Size != 6 || page.Attempt != 1 || !page.End {
		t.Errorf("the log: %+v, %v", page, err)
	}
	look(t, c, p.ID)
}

// look is what else can be read of a promise that has ended.
func look(t *testing.T, c *api.Client, id string) {
	t.Helper()
	ctx := t.Context()
	list, err := c.List(ctx, api.ListQuery{Machine: "cpu", State: "resolved", Since: time.Now().Add(-time.Hour), Limit: 5})
	if err != nil || len(list.Items) != 1 || list.Items[0].ID != id {
		t.Errorf("the list: %+v, %v", list, err)
	}
	if m, err := c.Machines(ctx); err != nil || len(m.Items) != 1 || m.Items[0].Name != "cpu" {
		t.Errorf("the machines: %+v, %v", m, err)
	}
	if arts, err := c.Artifacts(ctx, id); err != nil || len(arts.Items) != 1 || arts.Items[0].Name != "d/a.txt" {
		t.Errorf("the artifacts: %+v, %v", arts, err)
	}
	body, err := c.Artifact(ctx, id, "d/a.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); string(got) != "abc" || err != nil {
		t.Errorf("the artifact: %q, %v", got, err)
	}
}

// What is refused, is refused as the same sentinel at the other end.
func TestJourneyRefused(t *testing.T) {
	e, c := serve(t)
	ctx := t.Context()
	source := "1\n"
	submit := func(change func(*api.Submit)) error {
		sub := api.Submit{ID: "x", Machine: "cpu", Script: api.Script{Name: "a.py", Source: &source}}
		if change != nil {
			change(&sub)
		}
		_, _, err := c.Submit(ctx, sub, api.SubmitOptions{})
		return err
	}
	if err := submit(nil); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", api.MaxInput+1)
	empty := ""
	run(t, e, "x", "")
	_, canceled := c.Cancel(ctx, "x")
	_, unknown := c.Get(ctx, "y", 0)
	_, cursor := c.List(ctx, api.ListQuery{Cursor: "x"})
	_, artifact := c.Artifact(ctx, "x", "b")
	for name, tt := range map[string]struct{ got, want error }{
		"empty source": {submit(func(s *api.Submit) { s.Script.Source = &empty }), api.ErrInvalid},
		"other call":   {submit(func(s *api.Submit) { s.Args = []string{"1"} }), api.ErrConflict},
		"large args":   {submit(func(s *api.Submit) { s.ID, s.Args = "z", []string{large} }), api.ErrTooLarge},
		"ended parent": {submit(func(s *api.Submit) { s.ID, s.Parent = "", "x" }), promise.ErrParent},
		"lost cancel":  {canceled, promise.ErrSettled},
		"unknown id":   {unknown, promise.ErrNotFound},
		"cursor":       {cursor, store.ErrCursor},
		"artifact":     {artifact, blob.ErrNotFound},
		"wrong upload": {c.PutBlob(ctx, promise.Hash{1}, 3, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }), blob.ErrMismatch},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", name, tt.got, tt.want)
		}
	}
	var lost *api.Error
	if !errors.As(canceled, &lost) || lost.State != "resolved" {
		t.Errorf("the cancel lost to %+v", lost)
	}
}

// A wait that the server's end cuts off goes on at the next server.
func TestJourneyOverRestart(t *testing.T) {
	s := store.NewMemory()
	e := &engine.Engine{Store: s, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	h := api.Join(dispatch.New(dispatch.Config{Engine: e}), read.New(read.Config{Engine: e}))
	waits := make(chan struct{}, 100)
	serve := func(address string) (string, func()) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Prefer") != "" {
				waits <- struct{}{}
			}
			h.ServeHTTP(w, r)
		})}
		go srv.Serve(l)
		return l.Addr().String(), func() { srv.Close() }
	}
	address, kill := serve("127.0.0.1:0")
	c := api.NewClient(address, nil)
	defer c.Close()
	source := "1\n"
	if _, _, err := c.Submit(t.Context(), api.Submit{ID: "x", Machine: "cpu", Script: api.Script{Name: "a", Source: &source}}, api.SubmitOptions{}); err != nil {
		t.Fatal(err)
	}
	away := make(chan struct{}, 1000)
	c.OnRetry = func(error, time.Duration) { away <- struct{}{} }
	ended := make(chan api.Promise, 1)
	go func() {
		p, err := c.WaitTerminal(t.Context(), "x", nil)
		if err != nil {
			t.Error(err)
		}
		ended <- p
	}()
	<-waits
	kill()
	<-away
	_, kill = serve(address)
	defer kill()
	<-waits
	run(t, e, "x", "")
	if p := <-ended; p.State != "resolved" {
		t.Errorf("got %+v", p)
	}
}
