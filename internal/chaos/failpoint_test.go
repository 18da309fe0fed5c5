//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/workerd/worker"
)

// A visit is the time, from 1, that a process comes to a point.
type visit struct {
	point string
	hit   int32
}

// visits are those that a bit of everything makes.
func visits() []visit {
	return []visit{
		{engine.PointWritten, 1}, {engine.PointWritten, 3}, {engine.PointWritten, 7}, {engine.PointWritten, 12},
		{engine.PointSent, 1}, {engine.PointSent, 4},
		{engine.PointArchived, 1}, {engine.PointCancelled, 1}, {engine.PointCascaded, 1},
		{worker.PointClaimed, 1}, {worker.PointRan, 1}, {worker.PointUploaded, 1},
		{worker.PointSettled, 1}, {worker.PointDeleted, 1},
	}
}

// No point is left out: each that the sources name is killed at here.
func TestEveryPointIsVisited(t *testing.T) {
	visited := map[string]bool{worker.PointKept: true, worker.PointReleased: true} // tests of their own, below
	for _, v := range visits() {
		visited[v.point] = true
	}
	named := regexp.MustCompile(`(?m)^\s+Point\w+\s+= "(.+?)"`)
	for _, pattern := range []string{"../engine/*.go", "../../workerd/worker/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range named.FindAllSubmatch(source, -1) {
				if found++; !visited[string(m[1])] {
					t.Errorf("%s: nothing is killed at %s", file, m[1])
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no points are found there", pattern)
		}
	}
}

// Every named point between two steps, killed once: then to the end. A server
// with its sweeper and a worker does a bit of everything, kills itself at the
// point, and a successor finishes the work.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, at := range visits() {
		t.Run(fmt.Sprintf("%s %d", at.point, at.hit), func(t *testing.T) {
			t.Parallel()
			ctx, w := deadline(t, 2*time.Minute), newWorld(t)
			whole := role{Sweep: true, Worker: "w", Slots: 4}
			doomed := whole
			doomed.Point, doomed.Hit = at.point, at.hit
			first := w.serve(ctx, t, "first", doomed)
			finished := w.everything(ctx)
			diedThere(ctx, t, first)
			w.front.set("")
			w.aMinuteLater(ctx, t) // for a message that was never sent
			second := w.serve(ctx, t, "second", whole)
			if err := finished(); err != nil {
				t.Error(err)
			}
			second.stop(ctx, t)
			w.check(ctx, t)
		})
	}
}

// A worker killed when the store has not answered and the outcome is in its
// spool: started again, it settles what it kept, and the script has run once.
func TestKilledWithAnOutcomeInTheSpool(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	doomed := role{Dir: w.dir, Worker: "w", Slots: 1, Point: worker.PointKept, Hit: 1}
	first := doomed.start(t, w, "first")
	g := newGate(t)
	call := w.call("only", "gate(\""+g.path+"\")\nnote(\"end\")\n")
	*call.LeaseMS = 30_000
	id := w.submit(ctx, t, call)
	w.witness.saw(ctx, t, id, 1, "start")
	reconnect := w.cut(ctx, t)
	g.open(t)
	diedThere(ctx, t, first)
	reconnect()
	doomed.Point = ""
	second := doomed.start(t, w, "second")
	if p := w.settled(ctx, t, id); p.State != promise.Resolved.String() || len(p.Attempts) != 1 {
		t.Errorf("%s after %d attempts, want resolved after 1", p.State, len(p.Attempts))
	}
	second.stop(ctx, t)
	w.check(ctx, t)
}

// A worker killed while it drains, after the swap that gives a task back and
// before its message is visible again.
func TestKilledWhileItReleases(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	doomed := role{Dir: w.dir, Worker: "w", Slots: 1, Point: worker.PointReleased, Hit: 1}
	first := doomed.start(t, w, "first")
	id := w.submit(ctx, t, w.call("only", hangsOnce))
	w.witness.saw(ctx, t, id, 1, "start")
	first.signal(t, syscall.SIGTERM)
	diedThere(ctx, t, first)
	doomed.Point = ""
	second := doomed.start(t, w, "second")
	p := w.settled(ctx, t, id)
	if rec := w.record(ctx, t, id); p.State != promise.Resolved.String() || rec.Drains != 1 || rec.Crashes != 0 {
		t.Errorf("%s, %d drains, %d crashes; want resolved, 1, 0", p.State, rec.Drains, rec.Crashes)
	}
	second.stop(ctx, t)
	w.check(ctx, t)
}

// everything begins a bit of all there is: a script, one that fails so often
// that an attempt leaves its record, and a cancelled parent of two children.
// The function that it returns waits for all of it.
func (w *world) everything(ctx context.Context) (wait func() error) {
	var all sync.WaitGroup
	errs := make(chan error, 3)
	for _, part := range []func(context.Context) error{w.plain, w.stubborn, w.family} {
		all.Go(func() { errs <- part(ctx) })
	}
	return func() error {
		all.Wait()
		return errors.Join(<-errs, <-errs, <-errs)
	}
}

// plain is a script that ends.
func (w *world) plain(ctx context.Context) error { return w.one(ctx, "plain", lease) }

// stubborn is a script that succeeds at the eighth attempt.
func (w *world) stubborn(ctx context.Context) error {
	call := w.call("stubborn", "if ATTEMPT < 8: sys.exit(1)\nnote(\"end\")\n")
	call.Retry = &api.Retry{Policy: "constant", MaxAttempts: 8, DelayMS: 1}
	return w.ends(ctx, call, promise.Resolved)
}

// family is a parent with two children, all of whom run until the parent is
// cancelled.
func (w *world) family(ctx context.Context) error {
	parent := w.call("family", "hang()\n")
	if err := w.begin(ctx, parent); err != nil {
		return err
	}
	var ids []string
	for n := 1; n <= 2; n++ {
		child := w.call("", "hang()\n")
		child.ID, child.Parent, child.Mode = promise.ChildID(parent.ID, n), parent.ID, "rfi"
		if err := w.begin(ctx, child); err != nil {
			return err
		}
		ids = append(ids, child.ID)
	}
	err := w.insist(ctx, func() error {
		_, err := w.client.Cancel(ctx, parent.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("cancelling %s: %w", parent.ID, err)
	}
	for _, id := range append(ids, parent.ID) {
		if p, err := w.wait(ctx, id); err != nil || p.State != promise.Canceled.String() {
			return fmt.Errorf("%s is %q, want rejected_canceled: %w", id, p.State, err)
		}
	}
	return nil
}

// begin submits and waits until the script has started.
func (w *world) begin(ctx context.Context, s api.Submit) error {
	err := w.insist(ctx, func() error {
		_, _, err := w.client.Submit(ctx, s, api.SubmitOptions{Async: true})
		return err
	})
	if err == nil {
		_, err = w.witness.await(ctx, func(e entry) bool { return e.id == s.ID && e.what == "start" })
	}
	if err != nil {
		return fmt.Errorf("beginning %s: %w", s.ID, err)
	}
	return nil
}

// ends submits, waits for the end, and says when it is not the one wanted.
func (w *world) ends(ctx context.Context, s api.Submit, want promise.State) error {
	if err := w.begin(ctx, s); err != nil {
		return err
	}
	p, err := w.wait(ctx, s.ID)
	if err != nil || p.State != want.String() {
		return fmt.Errorf("%s is %q, want %s: %w", s.ID, p.State, want, err)
	}
	return nil
}
