package sqliteblob_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/fileblob"
	"modulate/internal/blob/sqliteblob"
	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store/sqlitestore"
)

// What rides is in the commit of the record: over the file itself, and as an
// embedded deployment has it.
func TestRiding(t *testing.T) {
	for name, over := range map[string]func(t *testing.T, small blob.Blobs) blob.Rider{
		"alone": func(_ *testing.T, small blob.Blobs) blob.Rider { return small.(blob.Rider) },
		"embedded": func(t *testing.T, small blob.Blobs) blob.Rider {
			files, err := fileblob.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			return blob.NewCache(blob.BySize{Small: small, Large: files}, 1<<20)
		},
	} {
		t.Run(name, func(t *testing.T) {
			blobtest.RunRiding(t, func(t *testing.T) blobtest.Beside {
				return beside(t, filepath.Join(t.TempDir(), "store.db"), over)
			})
		})
	}
}

// beside opens a file as blobs and store.
func beside(t *testing.T, path string, over func(*testing.T, blob.Blobs) blob.Rider) blobtest.Beside {
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	records := sqlitestore.New(db)
	return blobtest.Beside{
		Blobs: over(t, sqliteblob.New(db)),
		Write: func(ctx context.Context, id string) error {
			return records.Create(ctx, promise.Record{ID: id, Rev: 1, Owner: "local", Machine: "cpu", Call: promise.Call{Name: id}})
		},
		Written: func(id string) bool {
			_, err := records.Get(t.Context(), id)
			return err == nil
		},
		Fill:  func(t *testing.T) { fill(t, db) },
		Crash: func(t *testing.T) blobtest.Beside { return beside(t, copyOf(t, path), over) },
	}
}

// fill leaves the file one page to grow by, and no other that is free.
func fill(t *testing.T, db *sqlite.DB) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
		var pages int64
		err := tx.Query("PRAGMA page_count", func(row []any) error {
			pages = row[0].(int64)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Query(fmt.Sprintf("PRAGMA max_page_count = %d", pages+1), func([]any) error { return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
}

// copyOf copies a file and its log while it is open: what a process that opens
// the copy finds is what is on the disk now.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}
