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

// checkWitness holds what the scripts say against what the store knows.
func (w *world) checkWitness(t *testing.T, past map[string][]promise.Record, attempts map[string][]promise.Attempt) {
	t.Helper()
	type run struct {
		id      string
		attempt uint32
	}
	starts, ends := map[run]int{}, map[run]int{}
	entries, _ := w.witness.all()
	for _, e := range entries {
		at := run{e.id, e.attempt}
		switch e.what {
		case "start":
			starts[at]++
		case "end":
			ends[at]++
		}
	}
	for at, n := range starts {
		if n > 1 {
			t.Errorf("%s: attempt %d started %d times", at.id, at.attempt, n)
		}
		if !slices.ContainsFunc(attempts[at.id], func(a promise.Attempt) bool { return a.Number == at.attempt }) {
			t.Errorf("%s: the store knows nothing of attempt %d, which ran", at.id, at.attempt)
		}
	}
	for id, forms := range past {
		last := forms[len(forms)-1]
		for i, a := range attempts[id] {
			if a.Number != uint32(i+1) {
				t.Errorf("%s: attempt %d is told as number %d", id, i+1, a.Number)
			}
			won := last.State == promise.Resolved && a.Version == last.Outcome.Version
			if won && ends[run{id, a.Number}] != 1 {
				t.Errorf("%s: resolved by attempt %d, which did not come to its end", id, a.Number)
			}
		}
	}
}

// checkTold holds what a waiter was told first against what is stored last.
func (w *world) checkTold(t *testing.T, past map[string][]promise.Record) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, told := range w.first {
		forms := past[id]
		if len(forms) == 0 {
			t.Errorf("%s was told as %s and is not in the store", id, told.State)
			continue
		}
		last := forms[len(forms)-1]
		if told.State != last.State.String() || told.Outcome == nil || told.Outcome.Cause != string(last.Outcome.Cause) ||
			told.SettledAt == nil || !told.SettledAt.Equal(last.SettledAt.Std()) {
			t.Errorf("%s was told as %s (%+v at %v), and is stored as %s", id, told.State, told.Outcome, told.SettledAt, ending(last))
		}
	}
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

// processes returns the processes whose environment names a submission of
// this test.
func (w *world) processes(t *testing.T) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		environ, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone, or not ours
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if id, ok := bytes.CutPrefix(v, []byte("MODULATE_ID=")); ok && bytes.Contains(id, []byte(w.tag)) {
				var pid int
				fmt.Sscanf(path, "/proc/%d/", &pid)
				pids = append(pids, pid)
			}
		}
	}
	return pids
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
