package sqliteblob_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/fileblob"
	"modulate/internal/blob/sqliteblob"
	"modulate/internal/promise"
	"modulate/internal/sqlite"
)

func open(t *testing.T, path string) *sqliteblob.Blobs {
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
	return sqliteblob.New(db)
}

func TestBlobs(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Blobs { return open(t, filepath.Join(t.TempDir(), "store.db")) })
}

// An embedded deployment keeps the small ones here and the large ones as files.
func TestBlobsBySize(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Blobs {
		dir := t.TempDir()
		files, err := fileblob.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return blob.BySize{Small: open(t, filepath.Join(dir, "store.db")), Large: files}
	})
}

// Another process sees what one has put, and what it has collected.
func TestTwoOnOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	one, other := open(t, path), open(t, path)
	const many = 1200 // more than one batch of a collection
	for i := range many {
		if err := one.Put(t.Context(), fmt.Sprintf("log/p/1/stdout/%04d", i), strings.NewReader("x"), 1, promise.Hash{}); err != nil {
			t.Fatal(err)
		}
	}
	found, err := other.List(t.Context(), "log/p/")
	if err != nil || len(found) != many {
		t.Fatalf("%d blobs, %v; want %d", len(found), err, many)
	}
	removed, err := other.Collect(t.Context(), promise.TimeOf(time.Now().Add(time.Hour)))
	if err != nil || removed != many {
		t.Errorf("%d removed, %v; want %d", removed, err, many)
	}
	if found, err = one.List(t.Context(), "log/p/"); err != nil || len(found) != 0 {
		t.Errorf("%d blobs are left, %v", len(found), err)
	}
}
