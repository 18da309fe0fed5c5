//go:build linux

package chaos

import (
	"context"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
)

// `modulate dev` killed -9 during work goes on after a restart, on the same
// folder, and so do its scripts meanwhile: nothing starts twice.
func TestDevKilledGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	dev := w.dev(ctx, t, "--machines", "cpu:1")
	g := newGate(t)
	call := w.call("running", "print(\"before\", flush=True)\ngate(\""+g.path+"\")\nprint(\"after\")\nnote(\"end\")\n")
	*call.LeaseMS = time.Minute.Milliseconds() // however long a restart takes here
	running := w.submit(ctx, t, call)
	waiting := w.submit(ctx, t, w.call("waiting", "note(\"end\")\n"))
	w.witness.saw(ctx, t, running, 1, "start")
	scripts := w.scriptsOf(t, dev)
	w.front.set("")
	dev.kill()
	w.aMinuteLater(ctx, t) // for the one that waits
	if len(scripts) != 1 || scripts[0].ended(0) == nil {
		t.Errorf("of %d scripts none outlived dev, want 1", len(scripts))
	}
	dev = w.dev(ctx, t, "--machines", "cpu:1")
	g.open(t)
	if p := w.settled(ctx, t, running); len(p.Attempts) != 1 || p.Outcome.Stdout.Tail != "before\nafter\n" {
		t.Errorf("%s after %d attempts, stdout %q", p.State, len(p.Attempts), p.Outcome.Stdout.Tail)
	}
	w.settled(ctx, t, waiting)
	dev.stop(ctx, t)
	w.check(ctx, t)
}

// A second dev on one folder is refused, with a sentence and exit code 2; the
// first goes on.
func TestASecondDevIsRefused(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	dev := w.dev(ctx, t, "--machines", "cpu:1")
	second := start(t, "second dev", w.env(), program("modulate"), "dev", "--dir", w.dir, "--listen", "127.0.0.1:0")
	if code := second.exit(ctx, t); code != 2 {
		t.Errorf("the second dev exited with %d, want 2", code)
	}
	if said := second.stderr.String(); !strings.Contains(said, "error:") || !strings.Contains(said, w.dir) {
		t.Errorf("the second dev does not say which folder is taken: %q", said)
	}
	id := w.submit(ctx, t, w.call("only", "note(\"end\")\n"))
	w.settled(ctx, t, id)
	dev.stop(ctx, t)
	w.check(ctx, t)
}

// kill -9 during SQLite's commits: whatever was answered is there, and the
// file is whole after each kill.
func TestKilledDuringCommits(t *testing.T) {
	t.Parallel()
	const every, callers = 4, 16
	kills := 25
	if testing.Short() {
		kills = 5
	}
	ctx, w := deadline(t, 4*time.Minute), newWorld(t)
	server := w.dev(ctx, t, "--machines", "gpu:1")
	answers := newFeed[string]()
	all := flood(ctx, (kills+1)*every, callers, func(ctx context.Context, name string) error {
		call := w.call(name, "note(\"end\")\n")
		err := w.insist(ctx, func() error {
			_, _, err := w.client.Submit(ctx, call, api.SubmitOptions{Async: true})
			return err
		})
		answers.add(call.ID)
		return err
	})
	for kill := range kills {
		// Right after an answer the next commits are under way.
		if err := answers.awaitCount(ctx, (kill+1)*every, always); err != nil {
			t.Fatal(err)
		}
		w.front.set("")
		server.kill()
		w.wantWhole(ctx, t)
		answered, _ := answers.all()
		w.wantStored(ctx, t, answered)
		server = w.dev(ctx, t, "--machines", "gpu:1")
	}
	if err := all(); err != nil {
		t.Fatal(err)
	}
	w.aMinuteLater(ctx, t) // for the messages that went down with a server
	a := w.worker(t, "a", "--slots", "2")
	answered, _ := answers.all()
	for _, id := range answered {
		w.settled(ctx, t, id)
	}
	a.stop(ctx, t)
	server.stop(ctx, t)
	w.check(ctx, t)
}

func always(string) bool { return true }

// wantStored fails the test unless the file holds a promise of each id.
func (w *world) wantStored(ctx context.Context, t *testing.T, ids []string) {
	t.Helper()
	past := w.history(ctx, t)
	for _, id := range ids {
		if len(past[id]) == 0 {
			t.Errorf("%s was answered and is lost", id)
		}
	}
}
