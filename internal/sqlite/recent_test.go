package sqlite

import (
	"sync/atomic"
	"testing"
)

// keep writes a row and keeps its value.
func keep(t *testing.T, db *DB, key, value string) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *Tx) error {
		tx.Keep(key, value, len(value))
		_, err := tx.Exec(`INSERT INTO worker VALUES (?, ?, 0, 0, 0, 0)
			ON CONFLICT DO UPDATE SET machine = excluded.machine`, key, value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// recalls checks what is recent; "" means nothing.
func recalls(t *testing.T, db *DB, key, want string) {
	t.Helper()
	got, ok := db.Recent(key)
	if ok != (want != "") || ok && got != want {
		t.Errorf("%s: got %v (%v), want %q", key, got, ok, want)
	}
}

func TestRecentIsWhatIsStored(t *testing.T) {
	path := file(t)
	db := open(t, path)
	recalls(t, db, "a", "")
	keep(t, db, "a", "1")
	keep(t, db, "b", "1")
	recalls(t, db, "a", "1")
	keep(t, db, "a", "2")
	recalls(t, db, "a", "2")
	recalls(t, db, "b", "1")

	peer := open(t, path)
	recalls(t, peer, "a", "") // it did not write it
	recalls(t, db, "a", "2")  // nor anything
	keep(t, peer, "b", "3")
	recalls(t, db, "a", "") // who knows what the peer wrote
	recalls(t, db, "b", "")
	recalls(t, peer, "b", "3")
	keep(t, db, "a", "4")
	recalls(t, db, "a", "4")
	recalls(t, db, "b", "")
	recalls(t, peer, "b", "")
}

// While a commit is under way nobody else trusts what he keeps, and its owner
// does not trust what it writes.
func TestRecentDuringACommit(t *testing.T) {
	path := file(t)
	db, peer := open(t, path), open(t, path)
	keep(t, peer, "p", "1")
	keep(t, db, "a", "1")
	keep(t, db, "b", "1")
	recalls(t, peer, "p", "")
	err := db.Write(t.Context(), func(tx *Tx) error {
		db.recent.committing([]entry{{"a", "2", 1}})
		recalls(t, db, "a", "")
		recalls(t, db, "b", "1")
		recalls(t, peer, "p", "")
		db.recent.committed([]entry{{"a", "2", 1}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	recalls(t, db, "a", "2")
	recalls(t, db, "b", "1")
}

// A process that dies while it commits leaves the generation odd.
func TestRecentAfterADeathInACommit(t *testing.T) {
	path := file(t)
	db, peer := open(t, path), open(t, path)
	keep(t, db, "a", "1")
	peer.turn.generation().Add(1)
	recalls(t, db, "a", "")
	keep(t, db, "b", "1")
	recalls(t, db, "a", "") // it may have been committed
	recalls(t, db, "b", "1")
	keep(t, peer, "c", "1")
	recalls(t, db, "b", "")
	recalls(t, peer, "c", "1")
}

func TestRecentForgets(t *testing.T) {
	db := open(t, file(t))
	keep(t, db, "a", "1")
	err := db.Write(t.Context(), func(tx *Tx) error {
		tx.Keep("a", nil, 0)
		_, err := tx.Exec("DELETE FROM worker")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	recalls(t, db, "a", "")
	keep(t, db, "old", "1")
	big := func(key string) []entry { return []entry{{key, "x", recentBytes}} }
	for _, key := range []string{"1", "2"} {
		err := db.Write(t.Context(), func(tx *Tx) error { tx.kept = append(tx.kept, big(key)...); return insert(key)(tx) })
		if err != nil {
			t.Fatal(err)
		}
	}
	recalls(t, db, "old", "") // there is a bound
	recalls(t, db, "2", "x")
}

// SQLite gives up the write lock before the commit is known to be over here:
// another process may have committed by then.
func TestRecentAfterALateCommit(t *testing.T) {
	var generation atomic.Uint64
	a, b := newRecent(&generation), newRecent(&generation)
	old, now := []entry{{"x", "old", 3}}, []entry{{"x", "new", 3}}
	a.committing(old)
	b.committing(now)
	b.committed(now)
	a.committed(old)
	if got, ok := a.get("x"); ok {
		t.Errorf("a reads %v, which b has overwritten", got)
	}
	if got, ok := b.get("x"); !ok || got != "new" {
		t.Errorf("b reads %v (%v), which nobody has overwritten", got, ok)
	}

	a.committing(old) // and the other way round: b is still committing
	b.committing(now)
	a.committed(old)
	if got, ok := a.get("x"); ok {
		t.Errorf("a reads %v while b commits", got)
	}
	b.committed(now)
	if got, ok := b.get("x"); !ok || got != "new" {
		t.Errorf("b reads %v (%v) after its commit", got, ok)
	}
}
