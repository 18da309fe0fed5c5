package sqlite

import (
	"context"
	"errors"
	"fmt"
)

// version is the schema's: that many steps make it.
var version = int64(len(steps))

// steps make each version of what the one before has made, the first in an
// empty file. What stands here is never changed, only followed by another.
var steps = [][]string{{
	`CREATE TABLE promise (
		id         TEXT PRIMARY KEY,
		rev        INTEGER NOT NULL,
		machine    TEXT NOT NULL,
		owner      TEXT NOT NULL,
		created_at INTEGER NOT NULL,
		state      INTEGER NOT NULL,
		due_at     INTEGER NOT NULL,
		settled_at INTEGER NOT NULL,
		record     BLOB NOT NULL
	) STRICT`,
	`CREATE INDEX promise_list ON promise (machine, created_at, id)`,
	`CREATE INDEX promise_due ON promise (due_at, id) WHERE due_at > 0`,
	`CREATE TABLE machine (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID`,
	`CREATE TABLE worker (
		name       TEXT PRIMARY KEY,
		machine    TEXT NOT NULL,
		slots      INTEGER NOT NULL,
		running    INTEGER NOT NULL,
		started_at INTEGER NOT NULL,
		seen_at    INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,
	`CREATE TABLE message (
		number     INTEGER PRIMARY KEY,
		machine    TEXT NOT NULL,
		sent_at    INTEGER NOT NULL,
		visible_at INTEGER NOT NULL,
		receives   INTEGER NOT NULL,
		body       BLOB NOT NULL
	) STRICT`,
	`CREATE INDEX message_visible ON message (machine, visible_at, receives)`,
	`CREATE TABLE dead (
		number    INTEGER PRIMARY KEY,
		machine   TEXT NOT NULL,
		buried_at INTEGER NOT NULL,
		body      BLOB NOT NULL
	) STRICT`,
}, {
	`CREATE TABLE blob (
		key        TEXT PRIMARY KEY,
		written_at INTEGER NOT NULL,
		content    BLOB NOT NULL
	) STRICT, WITHOUT ROWID`,
}}

// migrate brings the file to this program's schema, or refuses it.
func migrate(ctx context.Context, c *Conn) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if found, err := number(c, "PRAGMA user_version"); err != nil || found == version {
		return err
	}
	if _, err := c.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		end := "COMMIT"
		if err != nil {
			end = "ROLLBACK"
		}
		_, endErr := c.Exec(end)
		err = errors.Join(err, endErr)
	}()
	found, err := number(c, "PRAGMA user_version") // another process may have been faster
	switch {
	case err != nil || found == version:
		return err
	case found > version:
		return fmt.Errorf("%w of modulate (schema %d, this program knows %d): use that version, or another directory",
			ErrNewer, found, version)
	}
	tables, err := number(c, "SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	if (tables > 0) != (found > 0) {
		return fmt.Errorf("%w: it holds the tables of another program", ErrForeign)
	}
	for _, step := range steps[found:] {
		for _, stmt := range step {
			if _, err := c.Exec(stmt); err != nil {
				return err
			}
		}
	}
	_, err = c.Exec(fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}

// number returns the one integer that a query yields.
func number(c *Conn, query string) (n int64, err error) {
	err = c.Query(query, func(row []any) error {
		n = row[0].(int64)
		return nil
	})
	return n, err
}
