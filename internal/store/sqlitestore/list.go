package sqlitestore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
)

const (
	// scanned is how many rows one call looks at for each machine.
	scanned = 2000
	// sorted is how many ids may start with a prefix for them to be sorted
	// rather than met on the way through the index.
	sorted = 5000
)

// A scan is what was found of a list's page in one range of rows. Up to until,
// and no further, found is complete; nil: it is complete.
type scan struct {
	found []store.Position
	until *store.Position
}

// errStop ends a query early.
var errStop = errors.New("enough")

// List is that of [store.Store]. It goes through the index of each machine,
// newest first, and merges what matches.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	after, err := q.Check()
	if err != nil {
		return store.Page{}, err
	}
	var page store.Page
	err = s.db.Read(ctx, func(c *sqlite.Conn) error {
		scans, err := scanAll(c, q, after)
		if err != nil {
			return err
		}
		chosen, cursor := merge(scans, q.Limit)
		page.Cursor = cursor
		for _, p := range chosen {
			b, err := get(c, p.ID)
			if err != nil || b == nil { // nil: collected meanwhile
				return err
			}
			rec, err := store.Decode(b)
			if err != nil {
				return err
			}
			if q.Matches(rec) { // still
				page.Records = append(page.Records, rec)
			}
		}
		return nil
	})
	if err != nil {
		return store.Page{}, ours(err)
	}
	return page, nil
}

// scanAll looks for a page's records after a place.
func scanAll(c *sqlite.Conn, q store.Query, after store.Position) ([]scan, error) {
	if q.Prefix != "" {
		if one, few, err := scanPrefix(c, q, after); err != nil || few {
			return []scan{one}, err
		}
	}
	names := []string{q.Machine}
	if q.Machine == "" {
		var err error
		if names, err = machines(c); err != nil {
			return nil, err
		}
	}
	var scans []scan
	for _, name := range names {
		one, err := scanMachine(c, q, name, after)
		if err != nil {
			return nil, err
		}
		scans = append(scans, one)
	}
	return scans, nil
}

// machines returns every machine that a promise is for, by one seek in the
// index for each.
func machines(c *sqlite.Conn) (names []string, err error) {
	for more, last := true, ""; more; {
		more = false
		err = c.Query("SELECT machine FROM promise WHERE machine > ? ORDER BY machine LIMIT 1", func(row []any) error {
			last, more = row[0].(string), true
			names = append(names, last)
			return nil
		}, last)
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// scanMachine looks through one machine's part of the index.
func scanMachine(c *sqlite.Conn, q store.Query, machine string, after store.Position) (s scan, err error) {
	count := 0
	err = c.Query(`SELECT created_at, id, owner, state FROM promise
		WHERE machine = ? AND (created_at, id) < (?, ?) AND created_at >= ?
		ORDER BY created_at DESC, id DESC`,
		func(row []any) error {
			p := store.Position{CreatedAt: promise.Time(row[0].(int64)), ID: row[1].(string)}
			if strings.HasPrefix(p.ID, q.Prefix) && matches(q, row[2].(string), row[3].(int64)) {
				s.found = append(s.found, p)
			}
			if count++; count == scanned || len(s.found) > q.Limit {
				s.until = &p
				return errStop
			}
			return nil
		}, machine, int64(after.CreatedAt), after.ID, int64(q.Since))
	if errors.Is(err, errStop) {
		err = nil
	}
	return s, err
}

// scanPrefix looks at all ids that start with the prefix, if they are few.
func scanPrefix(c *sqlite.Conn, q store.Query, after store.Position) (s scan, few bool, err error) {
	count := 0
	err = c.Query(`SELECT created_at, id, owner, state, machine FROM promise WHERE id >= ? AND id < ? LIMIT ?`,
		func(row []any) error {
			count++
			p := store.Position{CreatedAt: promise.Time(row[0].(int64)), ID: row[1].(string)}
			if p.Compare(after) > 0 && p.CreatedAt >= q.Since && matches(q, row[2].(string), row[3].(int64)) &&
				(q.Machine == "" || row[4].(string) == q.Machine) {
				s.found = append(s.found, p)
			}
			return nil
		}, q.Prefix, q.Prefix+"\x7f", int64(sorted+1)) // ids are ASCII below 0x7f
	return s, count <= sorted, err
}

// matches applies the filters that no index serves.
func matches(q store.Query, owner string, state int64) bool {
	return owner == q.Owner && (q.State == nil || int64(*q.State) == state)
}

// merge puts scans together into a page of at most limit, and the cursor of
// what follows it.
func merge(scans []scan, limit int) (page []store.Position, cursor string) {
	var until *store.Position // the first place up to which everything is complete
	for _, s := range scans {
		if s.until != nil && (until == nil || s.until.Compare(*until) < 0) {
			until = s.until
		}
	}
	for _, s := range scans {
		for _, p := range s.found {
			if until == nil || p.Compare(*until) <= 0 {
				page = append(page, p)
			}
		}
	}
	slices.SortFunc(page, store.Position.Compare)
	if len(page) > limit {
		return page[:limit], page[limit-1].Cursor()
	}
	if until != nil {
		return page, until.Cursor()
	}
	return page, ""
}
