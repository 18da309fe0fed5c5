package sqlitequeue

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// What could not be written, the disk being full, does not stay in memory;
// what waits there to be handed out still is.
func TestAFullDiskFillsNoMemory(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	q := New(db)
	pages := func(limit string) { // what rides is tried before
		t.Helper()
		err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
			return tx.Query("PRAGMA max_page_count = "+limit, func([]any) error { return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	receive := func() queue.Delivery {
		t.Helper()
		got, err := q.Receive(t.Context(), "cpu", 1, time.Hour, time.Second)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		return got[0]
	}
	if got, err := q.Receive(t.Context(), "cpu", 1, 0, 0); err != nil || len(got) != 0 {
		t.Fatal(got, err) // it knows now that there is no row
	}
	body := make([]byte, 10_000) // more than there is room for
	pages("1")
	var first queue.Delivery
	for range 20 {
		if err := q.Send(t.Context(), "cpu", body, 0); err != nil {
			t.Fatal(err)
		}
		first = receive()
	}
	if err := q.Send(t.Context(), "cpu", body, 0); err != nil {
		t.Fatal(err)
	}
	pages("1000000")
	q.mu.Lock()
	held := len(q.held)
	q.mu.Unlock()
	if held != 1 {
		t.Errorf("%d messages in memory, want the one that waits", held)
	}
	if err := q.Extend(t.Context(), "cpu", first.Receipt, time.Minute); !errors.Is(err, queue.ErrReceipt) {
		t.Errorf("a message that is nowhere: %v, want ErrReceipt", err)
	}
	receive()
	if d, err := q.Depth(t.Context(), "cpu"); err != nil || d.InFlight != 1 {
		t.Errorf("with room again: %+v, %v; want the last in flight", d, err)
	}
}
