//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"modulate/internal/local"
	"modulate/internal/promise"
)

// check is the one checker: it compares the witness with the store, and looks
// for whatever was left behind. It is called at the end of every test, with
// all workers stopped.
func (w *world) check(ctx context.Context, t *testing.T) {
	t.Helper()
	w.wantWhole(ctx, t)
	past := w.history(ctx, t)
	for id, forms := range past {
		for _, wrong := range checkHistory(forms) {
			t.Errorf("%s: %s", id, wrong)
		}
		if last := forms[len(forms)-1]; !last.State.Terminal() {
			t.Errorf("%s is lost: %s, task %s, attempt %d", id, last.State, last.Task.State, last.Attempt)
		}
	}
	w.open(ctx, t, func(l *local.Local) {
		attempts := map[string][]promise.Attempt{}
		for id, forms := range past {
			all, err := l.Engine.Attempts(ctx, forms[len(forms)-1])
			if err != nil {
				t.Errorf("attempts of %s: %v", id, err)
			}
			attempts[id] = all
		}
		w.checkWitness(t, past, attempts)
	})
	w.checkTold(t, past)
	w.checkLeftovers(t)
}

// checkLeftovers looks for processes and files that should be gone.
func (w *world) checkLeftovers(t *testing.T) {
	t.Helper()
	for _, pid := range w.processes(t) {
		t.Errorf("process %d of a script is left", pid)
	}
	spools := filepath.Join(w.dir, "spool")
	for _, dir := range []string{spools, w.tmp} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && path != dir && path != filepath.Join(spools, "lock") {
				t.Errorf("%s is left", path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// open has look see the store as another process on it.
func (w *world) open(ctx context.Context, t *testing.T, look func(*local.Local)) {
	t.Helper()
	l, err := local.Open(ctx, local.Config{Dir: w.dir})
	if err != nil {
		t.Fatal(err)
	}
	look(l)
	if err := l.Close(); err != nil {
		t.Errorf("closing the store: %v", err)
	}
}

// record returns a promise as it is stored.
func (w *world) record(ctx context.Context, t *testing.T, id string) (rec promise.Record) {
	t.Helper()
	w.open(ctx, t, func(l *local.Local) {
		var err error
		if rec, err = l.Engine.Get(ctx, id); err != nil {
			t.Fatal(err)
		}
	})
	return rec
}

// children returns the ids of what is attached below a promise.
func (w *world) children(ctx context.Context, t *testing.T, id string) (ids []string) {
	t.Helper()
	w.open(ctx, t, func(l *local.Local) {
		found, err := l.Store.Children(ctx, id, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			ids = append(ids, c.ID)
		}
	})
	return ids
}
