package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// open opens a file until the test ends.
func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// file returns the path of a file that is not there yet.
func file(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "store.db")
}

// insert writes the name of a machine, the simplest row there is.
func insert(name string) func(*Tx) error {
	return func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO machine (name) VALUES (?) ON CONFLICT DO NOTHING", name)
		return err
	}
}

// count returns how many machines there are whose names start with prefix.
func count(t testing.TB, db *DB, prefix string) (n int64) {
	t.Helper()
	err := db.Read(t.Context(), func(c *Conn) error {
		return c.Query("SELECT count(*) FROM machine WHERE substr(name, 1, ?) = ?", func(row []any) error {
			n = row[0].(int64)
			return nil
		}, int64(len(prefix)), prefix)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenKeepsWhatIsThere(t *testing.T) {
	path := file(t)
	db := open(t, path)
	if err := db.Write(t.Context(), insert("a")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, open(t, path), "a"); n != 1 {
		t.Errorf("%d rows after opening again", n)
	}
}

func TestOpenRefusesANewerStore(t *testing.T) {
	path := file(t)
	db := open(t, path)
	err := db.Write(t.Context(), func(tx *Tx) error {
		tx.changes++
		return tx.Query("PRAGMA user_version = 7", func([]any) error { return nil })
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path)
	if !errors.Is(err, ErrNewer) {
		t.Fatalf("got %v, want ErrNewer", err)
	}
	for _, part := range []string{path, "schema 7", fmt.Sprint("knows ", version), "use that version"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// What an older version has made becomes this one's, with all that is in it.
func TestOpenBringsAnOlderStoreUpToDate(t *testing.T) {
	path := file(t)
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, stmt := range append(slices.Clone(steps[0]), "PRAGMA user_version = 1", "INSERT INTO machine (name) VALUES ('cpu')") {
		if _, err := c.Exec(stmt); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	db := open(t, path)
	for table, want := range map[string]int64{"machine": 1, "blob": 0} {
		err := db.Read(t.Context(), func(c *Conn) error {
			n, err := number(c, "SELECT count(*) FROM "+table)
			if n != want {
				t.Errorf("%d rows in %s, want %d", n, table, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) {
	path := file(t)
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec("CREATE TABLE theirs (x)"); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrForeign) {
		t.Errorf("another program's tables: got %v, want ErrForeign", err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), text); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("a text file: got %v, want an error that names it", err)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "missing", "store.db")); err == nil {
		t.Error("a missing directory was accepted")
	}
	if entries, err := os.ReadDir(filepath.Dir(text)); err != nil || len(entries) != 1 {
		t.Errorf("a refusal left something behind: %v, %v", entries, err)
	}
}

// The names of directories may hold what means something in a URI.
func TestOpenTakesAnyPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%20?mode=ro#x")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db := open(t, filepath.Join(dir, "store.db"))
	if err := db.Write(t.Context(), insert("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "store.db")); err != nil {
		t.Error(err)
	}
}

func TestManyOpenOneNewFile(t *testing.T) {
	path := file(t)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			db, err := Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Write(t.Context(), insert(fmt.Sprint("m", i))); err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := count(t, open(t, path), "m"); n != 6 {
		t.Errorf("%d of 6 writes", n)
	}
}

func TestClosedIsClosed(t *testing.T) {
	db := open(t, file(t))
	rides := make(chan struct{})
	db.Ride(func(tx *Tx) error {
		close(rides)
		return insert("rides")(tx)
	}, nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	<-rides // Close wrote what was pending
	for name, err := range map[string]error{
		"Write": db.Write(t.Context(), insert("x")),
		"Ask":   db.Ask(t.Context(), insert("x")),
		"Read":  db.Read(t.Context(), func(*Conn) error { return nil }),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
	db.Ride(insert("x"), nil)
	if err := db.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	db := open(t, file(t))
	for range readers { // all of them in use
		c := <-db.readers
		t.Cleanup(func() { db.readers <- c })
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error)
	go func() { got <- db.Read(ctx, func(*Conn) error { return nil }) }()
	cancel(cause)
	if err := <-got; !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}
