//go:build linux

package chaos

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
)

// History is kept by the database itself: triggers copy every form of every
// record, in the transaction that writes it, so that nothing a program does
// goes unseen.
const keepHistory = `
CREATE TABLE chaos_history (number INTEGER PRIMARY KEY, id TEXT NOT NULL, record BLOB) STRICT;
CREATE TRIGGER chaos_insert AFTER INSERT ON promise BEGIN
	INSERT INTO chaos_history (id, record) VALUES (new.id, new.record);
END;
CREATE TRIGGER chaos_update AFTER UPDATE ON promise BEGIN
	INSERT INTO chaos_history (id, record) VALUES (new.id, new.record);
END;
CREATE TRIGGER chaos_delete AFTER DELETE ON promise BEGIN
	INSERT INTO chaos_history (id, record) VALUES (old.id, NULL);
END;
`

// makeStore makes an empty store that keeps its history.
func (w *world) makeStore(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), w.storeFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.database(t).ExecContext(t.Context(), keepHistory); err != nil {
		t.Fatalf("keeping history: %v", err)
	}
}

// storeFile is the embedded store's one file.
func (w *world) storeFile() string { return filepath.Join(w.dir, "store.db") }

// database opens the store's file behind everybody's back.
func (w *world) database(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.storeFile()+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// wantWhole fails the test unless SQLite finds the file sound.
func (w *world) wantWhole(ctx context.Context, t *testing.T) {
	t.Helper()
	var verdict string
	if err := w.database(t).QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check: %q, %v", verdict, err)
	}
}

// history returns all that was ever stored under each id, oldest first.
func (w *world) history(ctx context.Context, t *testing.T) map[string][]promise.Record {
	t.Helper()
	rows, err := w.database(t).QueryContext(ctx, "SELECT id, record FROM chaos_history ORDER BY number")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	past := map[string][]promise.Record{}
	for rows.Next() {
		var id string
		var form []byte
		if err := rows.Scan(&id, &form); err != nil {
			t.Fatal(err)
		}
		if form == nil {
			t.Errorf("the record of %s was removed", id)
			continue
		}
		rec, err := store.Decode(form)
		if err != nil {
			t.Fatal(err)
		}
		past[id] = append(past[id], rec)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return past
}

// checkHistory returns what is wrong with the forms of one record: revisions
// without a gap, versions and attempts that never fall, and one settling after
// which neither state nor outcome ever changes.
func checkHistory(past []promise.Record) (wrong []string) {
	for i, rec := range past {
		if rec.Rev != uint64(i+1) {
			wrong = append(wrong, fmt.Sprintf("write %d has rev %d", i+1, rec.Rev))
		}
		if i == 0 {
			continue
		}
		before := past[i-1]
		if rec.Task.Version < before.Task.Version || rec.Attempt < before.Attempt {
			wrong = append(wrong, fmt.Sprintf("rev %d: version %d, attempt %d after %d, %d",
				rec.Rev, rec.Task.Version, rec.Attempt, before.Task.Version, before.Attempt))
		}
		if before.State.Terminal() && ending(rec) != ending(before) {
			wrong = append(wrong, fmt.Sprintf("settled twice: at rev %d %s, at rev %d %s",
				before.Rev, ending(before), rec.Rev, ending(rec)))
		}
	}
	return wrong
}

// ending is what must never change once a promise is settled.
func ending(rec promise.Record) string {
	s := fmt.Sprintf("%s at %d by %s: %+v", rec.State, rec.SettledAt, rec.SettleID, rec.Outcome)
	if rec.Protocol != nil {
		s += fmt.Sprintf(", %+v", rec.Protocol.Value)
	}
	return s
}
