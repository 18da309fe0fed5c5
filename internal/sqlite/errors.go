package sqlite

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// The errors of a DB. Any other means that the outcome is unknown.
var (
	// ErrFull: there is no room; nothing was written.
	ErrFull = errors.New("no room left on the device")
	// ErrClosed: the DB is closed; nothing was written.
	ErrClosed = errors.New("the store is closed")
	// ErrNewer: the file was made by a newer version of the program.
	ErrNewer = errors.New("the store was made by a newer version")
	// ErrForeign: the file is not one of ours.
	ErrForeign = errors.New("not a store of modulate")
)

// code returns SQLite's extended result code, 0 if err is none of SQLite's.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// isBusy reports whether another connection stands in the way.
func isBusy(err error) bool {
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}

// explain makes ErrFull of what SQLite says when there is no room.
func explain(err error) error {
	c := code(err)
	if c&0xff == sqlite3.SQLITE_FULL || c == sqlite3.SQLITE_IOERR_SHMSIZE {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
