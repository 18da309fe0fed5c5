//go:build linux

package chaos

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
)

// A world is one store of a machine and what a test does to it.
type world struct {
	*scene
	dir    string // the store's
	front  *front
	client *api.Client
}

// newWorld makes an empty store.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{scene: newScene(t), dir: filepath.Join(t.TempDir(), ".modulate"), front: newFront(t)}
	w.spools = func() string { return filepath.Join(w.dir, "spool") }
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = api.NewClient(w.front.url(), transport)
	w.makeStore(t)
	return w
}

// deadline bounds a test, so that a hang fails with the children's output.
func deadline(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("the test's time is over"))
	t.Cleanup(cancel)
	return ctx
}

// submit hands s in through the front, as often as it takes.
func (w *world) submit(ctx context.Context, t *testing.T, s api.Submit) string {
	t.Helper()
	err := w.insist(ctx, func() error {
		_, _, err := w.client.Submit(ctx, s, api.SubmitOptions{Async: true})
		return err
	})
	if err != nil {
		t.Fatalf("submitting %s: %v", s.ID, err)
	}
	return s.ID
}

// settled waits through the front, as often as it takes, until the promise is
// terminal. What it is told first is kept for the checker.
func (w *world) settled(ctx context.Context, t *testing.T, id string) api.Promise {
	t.Helper()
	p, err := w.wait(ctx, id)
	if err != nil {
		forms := w.history(context.WithoutCancel(ctx), t)[id]
		t.Fatalf("waiting for %s: %v; it stands at %+v", id, err, forms[max(0, len(forms)-1):])
	}
	return p
}

func (w *world) wait(ctx context.Context, id string) (p api.Promise, err error) {
	for p.State == "" || p.State == "pending" {
		err := w.insist(ctx, func() (err error) {
			p, err = w.client.Get(ctx, id, 10*time.Second)
			return err
		})
		if err != nil {
			return p, err
		}
	}
	w.tell(p)
	return p, nil
}

// insist repeats a request while servers go and come: whenever one is up,
// until it is answered. An answer that is an error of the client's is final.
func (w *world) insist(ctx context.Context, request func() error) error {
	for {
		err := request()
		var answered *api.Error
		if err == nil || errors.As(err, &answered) && answered.Status < http.StatusInternalServerError {
			return err
		}
		if ready := w.front.ready(ctx); ready != nil {
			return errors.Join(err, ready)
		}
	}
}

// serve starts a role that answers behind the front.
func (w *world) serve(ctx context.Context, t *testing.T, name string, r role) *child {
	t.Helper()
	r.Dir, r.Serve = w.dir, true
	c := r.start(t, w, name)
	w.front.set(c.address(ctx, t))
	return c
}

// aMinuteLater has what waits for a worker sent again, in case its message went
// down with a process.
func (w *world) aMinuteLater(ctx context.Context, t *testing.T) {
	t.Helper()
	c := role{Dir: w.dir, Later: true}.start(t, w, "a minute later")
	if code := c.exit(ctx, t); code != 0 {
		t.Fatalf("sending again: %s", c.stderr)
	}
}

// address waits until a role is up and returns the host:port of its server.
func (c *child) address(ctx context.Context, t *testing.T) string {
	t.Helper()
	line, err := c.stdout.await(ctx, func(s string) bool { return strings.HasPrefix(s, ready) })
	if err != nil {
		t.Fatalf("%s is not up: %v", c.name, err)
	}
	return strings.TrimPrefix(line, ready)
}

// dev starts `modulate dev` behind the front.
func (w *world) dev(ctx context.Context, t *testing.T, flags ...string) *child {
	t.Helper()
	argv := append([]string{program("modulate"), "dev", "--dir", w.dir, "--listen", "127.0.0.1:0"}, flags...)
	c := start(t, "dev", w.env(), argv...)
	line, err := c.stdout.await(ctx, func(s string) bool { return strings.HasPrefix(s, listening) })
	if err != nil {
		t.Fatalf("dev is not up: %v", err)
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(line, listening), ",")
	w.front.set(address)
	return c
}

// listening is what dev says before its address once it is up.
const listening = "listening on http://"

// worker starts a workerd with two slots for cpu on the store.
func (w *world) worker(t *testing.T, name string, flags ...string) *child {
	t.Helper()
	argv := append([]string{program("workerd"), "--dir", w.dir, "--machine", "cpu", "--name", name}, flags...)
	return start(t, name, w.env(), argv...)
}

// cli starts the command line against the front.
func (w *world) cli(t *testing.T, args ...string) *child {
	t.Helper()
	return start(t, "modulate "+args[0], append(w.env(), "MODULATE_URL="+w.front.url()), append([]string{program("modulate")}, args...)...)
}

// file writes a script to be submitted by the command line.
func (w *world) file(t *testing.T, name, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(prelude+body), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
