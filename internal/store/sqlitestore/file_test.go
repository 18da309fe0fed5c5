package sqlitestore_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
	"modulate/internal/store/sqlitestore"
	"modulate/internal/store/storetest"
)

// Two handles on one file are to each other what two processes are.
func TestTwoHandlesAreOneStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	a, _ := openAt(t, path)
	b, _ := openAt(t, path)
	rec := newRecord("a")
	changed, stop := b.Watch("a")
	defer stop()
	if err := a.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the other handle was not woken")
	}
	for turn, handles := 0, []*sqlitestore.Store{b, a}; turn < 100; turn++ {
		if got, err := handles[turn%2].Get(t.Context(), "a"); err != nil || got.Rev != rec.Rev {
			t.Fatalf("rev %d (%v), want %d", got.Rev, err, rec.Rev)
		}
		rec.Rev++
		if err := handles[turn%2].Replace(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
}

// Who follows is known to the worker of another process, and costs no write.
func TestTwoHandlesHaveOneAudience(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	a, _ := openAt(t, path)
	b, _ := openAt(t, path)
	for end := time.Now().Add(patience); ; { // a note may be lost
		if err := a.Follow(t.Context(), "x", 7_000); err != nil {
			t.Fatal(err)
		}
		until, err := b.Followed(t.Context(), "x")
		if err != nil || time.Now().After(end) {
			t.Fatalf("the other handle heard nothing: %d, %v", until, err)
		}
		if until == 7_000 {
			return
		}
	}
}

func TestTwoHandlesAreLinearizable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	a, _ := openAt(t, path)
	b, _ := openAt(t, path)
	storetest.Linearizable(t, storetest.Load{Histories: 5, Clients: 8, Operations: 50, Seed: 3}, a, b)
}

func TestCollect(t *testing.T) {
	s := open(t)
	settled := func(id string, at promise.Time) promise.Record {
		rec := newRecord(id)
		rec.CreatedAt, rec.State, rec.SettledAt, rec.DueAt = at-1, promise.Resolved, at, 0
		return rec
	}
	keep := []promise.Record{newRecord("pending"), settled("young", 100), settled("cascading", 50)}
	keep[2].Cascade, keep[2].DueAt = true, 50
	for _, rec := range keep {
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 450 { // more than two batches
		if err := s.Create(t.Context(), settled(fmt.Sprint("old", i), 99)); err != nil {
			t.Fatal(err)
		}
	}
	changed, stop := s.Watch("old7")
	defer stop()
	for _, want := range []int{450, 0} {
		if n, err := s.Collect(t.Context(), 100); err != nil || n != want {
			t.Fatalf("%d removed (%v), want %d", n, err, want)
		}
	}
	select {
	case <-changed:
	default:
		t.Error("who watched it was not woken")
	}
	if _, err := s.Get(t.Context(), "old7"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	for _, rec := range keep {
		if got, err := s.Get(t.Context(), rec.ID); err != nil || got.Rev != 1 {
			t.Errorf("%s: %v", rec.ID, err)
		}
	}
}

func TestFullDiskIsErrFull(t *testing.T) {
	s, db := openAt(t, filepath.Join(t.TempDir(), "store.db"))
	err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
		return tx.Query("PRAGMA max_page_count = 1", func([]any) error { return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ {
		err = s.Create(t.Context(), newRecord(fmt.Sprint("a", i)))
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if _, err := s.List(t.Context(), store.Query{Owner: "local", Limit: 10}); err != nil {
		t.Errorf("reading a full store: %v", err)
	}
}

// A list that few records match is read in steps, each with a cursor.
func TestListIsBounded(t *testing.T) {
	s, db := openAt(t, filepath.Join(t.TempDir(), "store.db"))
	fill(t, db, 15_000)
	q := store.Query{Owner: "nobody", Limit: 10}
	steps := 0
	for ; ; steps++ {
		page, err := s.List(t.Context(), q)
		if err != nil || len(page.Records) != 0 {
			t.Fatalf("%d records, %v", len(page.Records), err)
		}
		if page.Cursor == "" {
			break
		}
		q.Cursor = page.Cursor
	}
	if steps < 2 || steps > 6 {
		t.Errorf("%d steps over 15,000 rows", steps)
	}
}

// fill writes n settled promises as fast as it goes.
func fill(t testing.TB, db *sqlite.DB, n int) {
	t.Helper()
	rec := newRecord("x")
	rec.State, rec.SettledAt, rec.DueAt = promise.Resolved, 2, 0
	rec.Outcome = promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 100, Tail: make([]byte, 100)}}
	for from := 0; from < n; from += 10_000 {
		err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
			for i := from; i < min(n, from+10_000); i++ {
				rec.ID, rec.CreatedAt = fmt.Sprintf("r%09d", i), promise.Time(1_000+i/3)
				rec.Machine = []string{"cpu", "gpu", "gpu-a100"}[i%3]
				b, err := store.Encode(&rec)
				if err != nil {
					return err
				}
				_, err = tx.Exec(`INSERT INTO promise (id, rev, machine, owner, created_at, state, due_at, settled_at, record)
					VALUES (?, 1, ?, 'local', ?, 1, 0, 2, ?)`, rec.ID, rec.Machine, int64(rec.CreatedAt), b)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkLarge measures a store of a million settled promises, beside an
// empty one.
func BenchmarkLarge(b *testing.B) {
	empty := open(b)
	s, db := openAt(b, filepath.Join(b.TempDir(), "store.db"))
	fill(b, db, 1_000_000)
	for name, q := range map[string]store.Query{
		"all":     {Owner: "local", Limit: 100},
		"machine": {Owner: "local", Limit: 100, Machine: "gpu"},
		"prefix":  {Owner: "local", Limit: 100, Prefix: "r000500"},
	} {
		b.Run("List/"+name, func(b *testing.B) {
			median(b, func(int) error {
				page, err := s.List(b.Context(), q)
				if len(page.Records) != 100 {
					b.Error(len(page.Records))
				}
				return err
			})
		})
	}
	for name, s := range map[string]*sqlitestore.Store{"empty": empty, "large": s} {
		b.Run("Create/"+name, func(b *testing.B) {
			now := time.Now()
			median(b, func(n int) error {
				rec := newRecord(fmt.Sprintf("s%d-%d", now.UnixNano(), n))
				rec.CreatedAt = promise.TimeOf(time.Now())
				return s.Create(b.Context(), rec)
			})
		})
	}
	b.Run("Get", func(b *testing.B) {
		median(b, func(n int) error {
			_, err := s.Get(b.Context(), fmt.Sprintf("r%09d", n*7919%1_000_000))
			return err
		})
	})
}

// median calls f b.N times and reports the median of its times.
func median(b *testing.B, f func(n int) error) {
	b.Helper()
	times := make([]time.Duration, b.N)
	b.ResetTimer()
	for n := range times {
		start := time.Now()
		if err := f(n); err != nil {
			b.Fatal(err)
		}
		times[n] = time.Since(start)
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[b.N/2].Microseconds()), "p50-µs")
}
