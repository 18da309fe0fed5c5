//go:build linux

package chaos

import (
	"context"
	"path/filepath"
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
	w.open(ctx, t, func(l *local.Local) { w.checkRecords(ctx, t, l.Engine, past) })
	w.checkLeftovers(t, filepath.Join(w.dir, "spool"))
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
