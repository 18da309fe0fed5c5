package sqlite

import (
	"errors"
	"fmt"
	"os"
)

const (
	// logPages is how far the write-ahead log grows before SQLite copies it
	// into the file and starts it over: 8 MB. A commit in some 700 pays for
	// it, with about 2 ms.
	logPages = 2000
	// logBytes is what that many pages occupy: each has a header of 24 bytes,
	// the log one of 32.
	logBytes = logPages*(4096+24) + 32
	// growAfter is how many commits a process makes before it grows the log
	// at once: those that make a few and end should not pay for it.
	growAfter = 20
	// growStep is how many bytes the log grows while others wait.
	growStep = 2 << 20
)

// grow makes the log as long as it will be anyway, a step at a time: a sync of
// a file that has grown has to write down its length too, which nearly doubles
// the time of a commit (measured on ext4: 430 µs for 220). Zeros after its last
// frame mean nothing in a log. Nobody else writes to it, because grow holds the
// write lock. It reports whether there is more to do.
func (db *DB) grow() (more bool) {
	if db.grown || db.commits < growAfter {
		return false
	}
	if err := db.begin(nil); err != nil {
		return false
	}
	size, err := growFile(db.path+"-wal", logBytes, growStep)
	db.grown = err != nil || size >= logBytes // a log that cannot grow is merely slower
	_, _ = db.writer.Exec("ROLLBACK")
	return !db.grown
}

// growFile appends up to step zeros to a file, to no more than limit bytes in
// all, and returns its size then. If that fails the file is as before.
func growFile(path string, limit, step int64) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size = info.Size()
	step = min(step, limit-size)
	if step <= 0 {
		return size, nil
	}
	_, err = f.WriteAt(make([]byte, step), size)
	if err = errors.Join(err, f.Sync()); err != nil {
		return size, fmt.Errorf("growing the log: %w", errors.Join(err, f.Truncate(size)))
	}
	return size + step, nil
}
