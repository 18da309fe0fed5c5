package sqlitestore_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"modulate/internal/sqlite"
	"modulate/internal/store"
	"modulate/internal/store/sqlitestore"
	"modulate/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if child := os.Getenv("SQLITESTORE_TEST_CHILD"); child != "" {
		os.Exit(beChild(child))
	}
	goleak.VerifyTestMain(m)
}

// open opens a store in a new directory.
func open(t testing.TB) *sqlitestore.Store {
	t.Helper()
	s, _ := openAt(t, filepath.Join(t.TempDir(), "store.db"))
	return s
}

// openAt opens the store in a file, until the test ends.
func openAt(t testing.TB, path string) (*sqlitestore.Store, *sqlite.DB) {
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
	return sqlitestore.New(db), db
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t) })
}

func TestSameAsMemory(t *testing.T) {
	operations := 20_000
	if testing.Short() || watched {
		operations = 2_000
	}
	storetest.Compare(t, storetest.Random{Seed: 7, Operations: operations}, store.NewMemory(), open(t))
}

func TestLinearizable(t *testing.T) {
	load := storetest.Load{Histories: 200, Clients: 8, Operations: 200, Seed: 7}
	if testing.Short() || watched {
		load.Histories, load.Operations = 10, 50
	}
	storetest.Linearizable(t, load, open(t))
}
