package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"modernc.org/sqlite"
)

// Conn is a connection to the file, for one goroutine at a time. It stands on
// the driver itself: package database/sql would cost as much as the statements.
// Statements are prepared once and kept, so their text must be constant.
type Conn struct {
	raw     driver.Conn
	stmts   map[string]statement
	args    []driver.NamedValue
	failed  error // the first failure since it was last set to nil
	changes int64 // rows changed since it was last set to 0
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// dial opens a connection: write-ahead log, a sync on every commit, 10 s of
// patience with others, 2 MB of page cache.
func dial(path string) (*Conn, error) {
	query := url.Values{"_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-2000)",
	}}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	// Of several that make a new file one may be told at once that it is busy:
	// SQLite does not wait where two could wait for each other.
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		raw, err := (&sqlite.Driver{}).Open(dsn.String())
		if err == nil {
			return &Conn{raw: raw, stmts: make(map[string]statement)}, nil
		}
		if !isBusy(err) || time.Now().After(until) {
			return nil, err
		}
	}
}

func (c *Conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// Exec runs a statement with args, each an int64, string or []byte, and
// returns how many rows it changed.
func (c *Conn) Exec(query string, args ...any) (changed int64, err error) {
	defer c.note(query, &err)
	s, err := c.prepare(query)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, err
	}
	changed, err = res.RowsAffected()
	c.changes += changed
	return changed, err
}

// Query runs a statement with args, and calls each with every row. The row is
// valid during the call; the strings and bytes in it are the callee's to keep.
// An error of each ends the query and is returned as it is.
func (c *Conn) Query(query string, each func(row []any) error, args ...any) error {
	rows, err := c.query(query, args)
	if err != nil {
		return err
	}
	dest := make([]driver.Value, len(rows.Columns()))
	row := make([]any, len(dest))
	for {
		if err = rows.Next(dest); err != nil {
			break
		}
		for i, v := range dest {
			row[i] = v
		}
		if err := each(row); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	if err == io.EOF {
		err = nil
	}
	err = errors.Join(err, rows.Close())
	c.note(query, &err)
	return err
}

func (c *Conn) query(query string, args []any) (_ driver.Rows, err error) {
	defer c.note(query, &err)
	s, err := c.prepare(query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.Background(), c.bind(args))
}

func (c *Conn) prepare(query string) (statement, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	stmt, err := c.raw.Prepare(query)
	if err != nil {
		return nil, err
	}
	s := stmt.(statement)
	c.stmts[query] = s
	return s, nil
}

func (c *Conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, v := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.args
}

// note says which statement failed, and keeps the first failure: the writer
// looks at it, whatever an operation makes of its error.
func (c *Conn) note(query string, err *error) {
	if *err == nil {
		return
	}
	*err = fmt.Errorf("%.40q: %w", query, *err)
	if c.failed == nil {
		c.failed = *err
	}
}
