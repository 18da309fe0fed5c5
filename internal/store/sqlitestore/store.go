// Package sqlitestore is the store of an embedded deployment: promises and
// roster in a SQLite file. The tables are described in package sqlite.
package sqlitestore

import (
	"context"
	"errors"
	"fmt"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
)

// Store is a [store.Store], [store.Watcher], [store.Roster] and [store.Audience]
// over a file.
type Store struct {
	store.Watches
	db       *sqlite.DB
	followed followed
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Watcher = (*Store)(nil)
	_ store.Roster  = (*Store)(nil)

	_ store.Audience = (*Store)(nil)
	_ store.Searcher = (*Store)(nil)
)

// New returns the store in db, which the caller closes.
func New(db *sqlite.DB) *Store {
	s := &Store{db: db}
	db.Listen(s.hear)
	return s
}

// hear wakes who watches what a commit changed.
func (s *Store) hear(n sqlite.Note, _ bool) {
	switch n.Kind {
	case sqlite.Promise:
		s.Changed(n.Name, n.At != 0)
	case sqlite.Followed:
		s.followed.note(n.Name, promise.Time(n.At))
	case sqlite.Everything:
		s.AllChanged()
	}
}

// Create is that of [store.Store].
func (s *Store) Create(ctx context.Context, rec promise.Record) error {
	if rec.Rev != 1 {
		return fmt.Errorf("creating %s: its rev is %d, not 1", rec.ID, rec.Rev)
	}
	return s.ReplaceAll(ctx, []store.Write{{Record: rec}})
}

// Get is that of [store.Store].
func (s *Store) Get(ctx context.Context, id string) (promise.Record, error) {
	if ctx.Err() != nil {
		return promise.Record{}, context.Cause(ctx)
	}
	if rec, ok := s.db.Recent(id); ok {
		return store.Clone(*rec.(*promise.Record)), nil
	}
	var b []byte
	err := s.db.Read(ctx, func(c *sqlite.Conn) (err error) {
		b, err = get(c, id)
		return err
	})
	if err != nil {
		return promise.Record{}, ours(err)
	}
	if b == nil {
		return promise.Record{}, store.ErrNotFound
	}
	return store.Decode(b)
}

// get returns the stored form of a record, nil if there is none.
func get(c *sqlite.Conn, id string) (b []byte, err error) {
	err = c.Query("SELECT record FROM promise WHERE id = ?", func(row []any) error {
		b = row[0].([]byte)
		return nil
	}, id)
	return b, err
}

// Replace is that of [store.Store].
func (s *Store) Replace(ctx context.Context, next promise.Record) error {
	if next.Rev < 2 {
		return fmt.Errorf("replacing %s: its rev is %d, below 2", next.ID, next.Rev)
	}
	return s.ReplaceAll(ctx, []store.Write{{Record: next}})
}

// ReplaceAll is that of [store.Store]. What is accepted carries what ctx has for
// the file: blobs that are to be there with it.
func (s *Store) ReplaceAll(ctx context.Context, writes []store.Write) error {
	if len(writes) == 0 {
		return nil
	}
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	rows, err := rowsOf(writes)
	if err != nil {
		return err
	}
	var refused bool
	var stored []byte
	carried := s.db.Carried(ctx)
	err = s.db.Write(ctx, func(tx *sqlite.Tx) (err error) {
		if refused, stored, err = swap(tx, rows); err == nil && !refused {
			err = carried(tx)
		}
		return err
	})
	switch {
	case err != nil:
		return ours(err)
	case !refused:
		return nil
	case stored == nil:
		return &store.Refused{}
	}
	rec, err := store.Decode(stored)
	if err != nil {
		return err
	}
	return &store.Refused{Stored: rec}
}

// row is a write as it goes into the file.
type row struct {
	*promise.Record        // a copy that nobody changes
	check           bool   // only the guard
	encoded         []byte // the stored form
}

// rowsOf prepares writes, so that the writer has less to do.
func rowsOf(writes []store.Write) ([]row, error) {
	rows := make([]row, len(writes))
	for i := range writes {
		rec := store.Clone(writes[i].Record)
		rows[i] = row{Record: &rec, check: writes[i].Check}
		if rows[i].check {
			continue
		}
		b, err := store.Encode(&rec)
		if err != nil {
			return nil, err
		}
		rows[i].encoded = b
	}
	return rows, nil
}

// swap does all writes if every guard holds, else it returns what is stored
// where the first does not.
func swap(tx *sqlite.Tx, rows []row) (refused bool, stored []byte, err error) {
	if len(rows) > 1 || rows[0].check {
		for _, r := range rows {
			if held, err := holds(tx.Conn, r); err != nil || !held {
				return refusal(tx.Conn, r.ID, err)
			}
		}
	}
	for _, r := range rows {
		if r.check {
			continue
		}
		if changed, err := put(tx.Conn, r); err != nil || changed == 0 {
			return refusal(tx.Conn, r.ID, err)
		}
		tx.Keep(r.ID, r.Record, recordSize+2*len(r.encoded))
		tx.Note(sqlite.Note{Kind: sqlite.Promise, Name: r.ID, At: int64(r.SettledAt)})
	}
	return false, nil, nil
}

// recordSize is what a record occupies in memory beside what it points to, in
// bytes, rounded up.
const recordSize = 1500

// refusal is what swap returns when a guard does not hold, or err occurred.
func refusal(c *sqlite.Conn, id string, err error) (bool, []byte, error) {
	if err != nil {
		return false, nil, err
	}
	b, err := get(c, id)
	return err == nil, b, err
}

// holds reports whether the guard of a write holds.
func holds(c *sqlite.Conn, r row) (bool, error) {
	var rev int64
	err := c.Query("SELECT rev FROM promise WHERE id = ?", func(row []any) error {
		rev = row[0].(int64)
		return nil
	}, r.ID)
	return store.Write{Record: *r.Record, Check: r.check}.Holds(uint64(rev)), err
}

// put writes a record under its guard, and returns how many it wrote.
func put(c *sqlite.Conn, r row) (int64, error) {
	if r.Rev == 1 {
		return c.Exec(`INSERT INTO promise (id, rev, machine, owner, created_at, state, due_at, settled_at, record)
			VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
			r.ID, r.Machine, r.Owner, int64(r.CreatedAt), int64(r.State),
			int64(r.DueAt), int64(r.SettledAt), r.encoded)
	}
	if r.State == promise.Pending { // most leave the due time as it was: that index need not be touched
		n, err := c.Exec(`UPDATE promise SET rev = ?, record = ? WHERE id = ? AND rev = ? AND state = ? AND due_at = ?`,
			int64(r.Rev), r.encoded, r.ID, int64(r.Rev-1), int64(promise.Pending), int64(r.DueAt))
		if n > 0 || err != nil {
			return n, err
		}
	}
	return c.Exec(`UPDATE promise SET rev = ?, state = ?, due_at = ?, settled_at = ?, record = ?
		WHERE id = ? AND rev = ?`,
		int64(r.Rev), int64(r.State), int64(r.DueAt), int64(r.SettledAt), r.encoded,
		r.ID, int64(r.Rev-1))
}

// Due is that of [store.Store].
func (s *Store) Due(ctx context.Context, now promise.Time, limit int) ([]string, error) {
	var ids []string
	err := s.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query(`SELECT id FROM promise WHERE due_at > 0 AND due_at <= ? ORDER BY due_at, id LIMIT ?`,
			func(row []any) error {
				ids = append(ids, row[0].(string))
				return nil
			}, int64(now), int64(max(limit, 0)))
	})
	return ids, ours(err)
}

// Children is that of [store.Store]: one range of ids for each separator. They
// do not overlap, and the first comes before the second.
func (s *Store) Children(ctx context.Context, id, after string, limit int) ([]promise.Record, error) {
	var recs []promise.Record
	err := s.db.Read(ctx, func(c *sqlite.Conn) error {
		for _, separator := range []byte{'.', ':'} {
			first, end := id+string(separator), id+string(separator+1)
			err := c.Query(`SELECT record FROM promise WHERE id > ? AND id < ? ORDER BY id LIMIT ?`,
				func(row []any) error {
					rec, err := store.Decode(row[0].([]byte))
					recs = append(recs, rec)
					return err
				}, max(first, after), end, int64(max(limit-len(recs), 0)))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, ours(err)
	}
	return recs, nil
}

// Search is that of [store.Searcher]: the index of ids has their order.
func (s *Store) Search(ctx context.Context, after string, limit int) ([]promise.Record, error) {
	var recs []promise.Record
	err := s.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query(`SELECT record FROM promise WHERE id > ? ORDER BY id LIMIT ?`,
			func(row []any) error {
				rec, err := store.Decode(row[0].([]byte))
				recs = append(recs, rec)
				return err
			}, after, int64(max(limit, 0)))
	})
	if err != nil {
		return nil, ours(err)
	}
	return recs, nil
}

// collectBatch is how many records one transaction of Collect looks at.
const collectBatch = 200

// Collect removes the records that settled before that time and have nothing
// left to do, and returns how many. It goes from the oldest row on, as long as
// there are some that were created before that time.
func (s *Store) Collect(ctx context.Context, before promise.Time) (removed int, err error) {
	place := int64(0) // of the row looked at last
	for {
		var ids []string
		more := false
		err := s.db.Read(ctx, func(c *sqlite.Conn) error {
			return c.Query(`SELECT rowid, id, created_at < ?1, state != 0 AND due_at = 0 AND settled_at < ?1
				FROM promise WHERE rowid > ?2 ORDER BY rowid LIMIT ?3`,
				func(row []any) error {
					place = row[0].(int64)
					more = more || row[2].(int64) == 1
					if row[3].(int64) == 1 {
						ids = append(ids, row[1].(string))
					}
					return nil
				}, int64(before), place, int64(collectBatch))
		})
		if err != nil || !more {
			return removed, ours(err)
		}
		n, err := s.remove(ctx, ids)
		removed += n
		if err != nil {
			return removed, ours(err)
		}
	}
}

// remove removes settled records.
func (s *Store) remove(ctx context.Context, ids []string) (removed int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	err = s.db.Write(ctx, func(tx *sqlite.Tx) error {
		removed = 0
		for _, id := range ids {
			n, err := tx.Exec("DELETE FROM promise WHERE id = ? AND state != 0", id)
			if err != nil {
				return err
			}
			removed += int(n)
			tx.Keep(id, nil, 0)
			tx.Note(sqlite.Note{Kind: sqlite.Promise, Name: id})
		}
		return nil
	})
	return removed, err
}

// Wipe removes every promise, for tests of the protocol.
func (s *Store) Wipe(ctx context.Context) error {
	return ours(s.db.Write(ctx, func(tx *sqlite.Tx) error {
		var ids []string
		err := tx.Query("SELECT id FROM promise", func(row []any) error {
			ids = append(ids, row[0].(string))
			return nil
		})
		for _, id := range ids {
			tx.Keep(id, nil, 0)
			tx.Note(sqlite.Note{Kind: sqlite.Promise, Name: id})
		}
		if err == nil {
			_, err = tx.Exec("DELETE FROM promise")
		}
		return err
	}))
}

// ours turns the file's errors into the store's.
func ours(err error) error {
	if errors.Is(err, sqlite.ErrFull) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}
