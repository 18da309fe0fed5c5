package sqlitequeue_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"modulate/internal/queue"
	"modulate/internal/queue/queuetest"
	"modulate/internal/queue/sqlitequeue"
	"modulate/internal/sqlite"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SQLITEQUEUE_TEST_CHILD"); path != "" {
		os.Exit(beChild(path))
	}
	goleak.VerifyTestMain(m)
}

// openAt opens the queue in a file, until the test ends.
func openAt(t testing.TB, path string) (*sqlitequeue.Queue, *sqlite.DB) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return sqlitequeue.New(db), db
}

func TestQueue(t *testing.T) {
	queuetest.Run(t, func(t *testing.T) queue.Queue {
		q, _ := openAt(t, filepath.Join(t.TempDir(), "store.db"))
		return q
	})
}

// With a peer on the file nothing may be kept in memory, and rows decide.
func TestQueueWithPeer(t *testing.T) {
	queuetest.Run(t, func(t *testing.T) queue.Queue {
		path := filepath.Join(t.TempDir(), "store.db")
		q, _ := openAt(t, path)
		openAt(t, path)
		return q
	})
}
