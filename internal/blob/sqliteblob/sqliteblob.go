// Package sqliteblob is the port of blobs over the file of an embedded
// deployment, where they lie beside the promises: it is for small ones, which
// cost one row of a commit there, and two syncs and an inode as a file. The
// table is described in package sqlite.
package sqliteblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/sqlite"
)

// Blobs implements [blob.Blobs] over a file.
type Blobs struct{ db *sqlite.DB }

var _ blob.Rider = (*Blobs)(nil)

// New returns the blobs in db, which the caller closes.
func New(db *sqlite.DB) *Blobs { return &Blobs{db} }

// Put implements [blob.Blobs].
func (b *Blobs) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	body, err := io.ReadAll(blob.Prove(src, size, sum))
	if err != nil {
		return fmt.Errorf("keeping %s: %w", key, err)
	}
	return explain("keeping", key, b.db.Write(ctx, insert(key, body)))
}

// Ride implements [blob.Rider]: a write of the store over the same file carries
// it.
func (b *Blobs) Ride(ctx context.Context, key string, body []byte, sum promise.Hash) (with context.Context, rides bool, err error) {
	if !sum.IsZero() && sha256.Sum256(body) != sum {
		return ctx, false, fmt.Errorf("keeping %s: %w: not of SHA-256 %s", key, blob.ErrMismatch, sum)
	}
	return b.db.Along(ctx, insert(key, body)), true, nil
}

// insert keeps a blob.
func insert(key string, body []byte) func(*sqlite.Tx) error {
	return func(tx *sqlite.Tx) error {
		_, err := tx.Exec(`INSERT INTO blob (key, written_at, content) VALUES (?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET written_at = excluded.written_at, content = excluded.content`,
			key, now(), body)
		return err
	}
}

// Get implements [blob.Blobs].
func (b *Blobs) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	var body []byte
	err := b.one(ctx, "SELECT content FROM blob WHERE key = ?", key, func(row []any) {
		body, _ = row[0].([]byte) // nil: it is empty
	})
	if err != nil {
		return nil, explain("reading", key, err)
	}
	return io.NopCloser(bytes.NewReader(body[min(offset, int64(len(body))):])), nil
}

// Stat implements [blob.Blobs].
func (b *Blobs) Stat(ctx context.Context, key string) (info blob.Info, err error) {
	err = b.one(ctx, "SELECT key, length(content), written_at FROM blob WHERE key = ?", key, func(row []any) { info = describe(row) })
	return info, explain("reading", key, err)
}

// List implements [blob.Blobs].
func (b *Blobs) List(ctx context.Context, prefix string) (found []blob.Info, err error) {
	err = b.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query("SELECT key, length(content), written_at FROM blob WHERE key >= ?1 AND key < ?1 || char(0x10ffff) ORDER BY key", func(row []any) error {
			found = append(found, describe(row))
			return nil
		}, prefix)
	})
	return found, explain("listing", prefix, err)
}

// Touch implements [blob.Blobs].
func (b *Blobs) Touch(ctx context.Context, key string) error {
	changed := int64(0)
	err := b.db.Write(ctx, func(tx *sqlite.Tx) (err error) {
		changed, err = tx.Exec("UPDATE blob SET written_at = ? WHERE key = ?", now(), key)
		return err
	})
	if err == nil && changed == 0 {
		err = blob.ErrNotFound
	}
	return explain("refreshing", key, err)
}

// Sign implements [blob.Blobs]: rows have no address.
func (b *Blobs) Sign(context.Context, string, blob.Info) (*http.Request, error) {
	return nil, blob.ErrNoURL
}

// collectBatch is how many rows one transaction of Collect looks at.
const collectBatch = 500

// Collect implements [blob.Blobs]. Writers come in between its batches.
func (b *Blobs) Collect(ctx context.Context, before promise.Time) (removed int, err error) {
	place := ""
	for {
		looked := 0
		var old []string
		err := b.db.Read(ctx, func(c *sqlite.Conn) error {
			return c.Query("SELECT key, written_at < ? FROM blob WHERE key > ? ORDER BY key LIMIT ?", func(row []any) error {
				looked++
				place = row[0].(string)
				if row[1].(int64) == 1 {
					old = append(old, place)
				}
				return nil
			}, int64(before), place, int64(collectBatch))
		})
		n := 0
		if err == nil && len(old) > 0 {
			n, err = b.remove(ctx, old, before)
		}
		if removed += n; err != nil || looked < collectBatch {
			return removed, explain("collecting", "blobs", err)
		}
	}
}

// remove removes those of the blobs that nobody has made young meanwhile.
func (b *Blobs) remove(ctx context.Context, keys []string, before promise.Time) (removed int, err error) {
	err = b.db.Write(ctx, func(tx *sqlite.Tx) error {
		removed = 0
		for _, key := range keys {
			n, err := tx.Exec("DELETE FROM blob WHERE key = ? AND written_at < ?", key, int64(before))
			if err != nil {
				return err
			}
			removed += int(n)
		}
		return nil
	})
	return removed, err
}

// one reads the row of a key.
func (b *Blobs) one(ctx context.Context, query, key string, each func(row []any)) error {
	found := false
	err := b.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query(query, func(row []any) error {
			found = true
			each(row)
			return nil
		}, key)
	})
	if err == nil && !found {
		err = blob.ErrNotFound
	}
	return err
}

// describe reads key, size and age.
func describe(row []any) blob.Info {
	return blob.Info{Key: row[0].(string), Size: row[1].(int64), Written: promise.Time(row[2].(int64))}
}

func now() int64 { return int64(promise.TimeOf(time.Now())) }

// explain says what failed, in the port's words.
func explain(what, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqlite.ErrFull):
		err = fmt.Errorf("%w: %w", blob.ErrFull, err)
	}
	return fmt.Errorf("%s %s: %w", what, key, err)
}
