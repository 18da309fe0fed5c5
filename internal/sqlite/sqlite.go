// Package sqlite owns the one file in which an embedded deployment keeps its
// promises, its queue, its roster and its small blobs. Packages sqlitestore,
// sqlitequeue and sqliteblob are the ports over it; nobody else opens it.
//
// # Schema
//
//	promise  one row a promise: the stored form of its record, and beside it
//	         what finds and guards it (see package store). Written by sqlitestore
//	worker   who announced itself; machine: every machine that ever was. sqlitestore
//	message  one row a message that is not deleted; dead: those buried. sqlitequeue
//	blob     one row a small blob: its content, and when it was put or touched. sqliteblob
//
// PRAGMA user_version is the schema's version. Beside FILE stand SQLite's own
// FILE-wal and FILE-shm, and FILE-turn (see the type turn).
//
// # Writing
//
// One goroutine writes at a time: a caller himself if nobody else does, else
// the writer's. It takes all operations that are pending, runs them in one
// transaction, commits once with one sync of the disk, and answers everyone:
// group commit. An operation whose guard refuses it is answered and disturbs
// nobody; one that fails is undone and run again by itself, so that it fails
// alone. A small blob that a record names may be in the operation that writes the
// record (see [DB.Along]): then one is not stored without the other.
//
// # Several processes
//
// Any number of processes may have the file open. After a commit the others
// are told by a datagram what changed (see the type bells); nobody polls. A
// process that is stopped in the middle of a commit stalls the writers of the
// others until it goes on or dies.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
)

// readers is how many connections serve reads.
const readers = 2

// DB is the open file. Its methods may be called from any goroutine.
type DB struct {
	path    string
	turn    *turn
	recent  *recent
	bells   *bells
	writer  *Conn
	readers chan *Conn // those that are not in use
	opened  int        // how many readers there are

	writing sync.Mutex // held by who writes; guards writer and the following
	commits int        // how many there were
	crowd   int        // how many waited for the last one
	grown   bool       // the log is as long as it is to be

	mu      sync.Mutex // guards the following
	pending []*op
	riding  bool // the timer runs for an operation that nobody waits for
	closed  bool

	wake    chan struct{} // capacity 1: something is pending
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has ended
	timer   *time.Timer

	listenMu sync.Mutex
	listen   []func(n Note, ours bool)
}

// Open opens the file, and makes it if there is none. Its directory must
// exist. [ErrNewer], [ErrForeign].
func Open(ctx context.Context, path string) (_ *DB, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	db := &DB{
		path:    path,
		readers: make(chan *Conn, readers),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening store %s: %w", path, explain(err)), db.release())
		}
	}()
	// The same durability as fsync at about half the price: of the metadata
	// only what is needed to read the data back is synced. Off where there is
	// no fdatasync.
	_, _ = sqlite.Fdatasync(true)
	if err := db.connect(ctx); err != nil {
		return nil, err
	}
	if db.turn, err = openTurn(path + "-turn"); err != nil {
		return nil, err
	}
	db.recent = newRecent(db.turn.generation())
	if db.bells, err = hang(path, func(n Note) { db.heard(n, false) }); err != nil {
		return nil, err
	}
	db.timer.Stop()
	go db.write()
	return db, nil
}

// connect opens the connections and brings the schema up to date.
func (db *DB) connect(ctx context.Context) (err error) {
	if db.writer, err = dial(db.path); err != nil {
		return err
	}
	if err := migrate(ctx, db.writer); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(db.path)); err != nil {
		return err
	}
	// The writer waits for its turn by itself.
	for _, pragma := range []string{"PRAGMA busy_timeout=0", fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", logPages)} {
		if err := db.writer.Query(pragma, func([]any) error { return nil }); err != nil {
			return err
		}
	}
	for range readers {
		c, err := dial(db.path)
		if err != nil {
			return err
		}
		db.readers <- c
		db.opened++
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Path is the absolute path of the file.
func (db *DB) Path() string { return db.path }

// Close writes what is pending, ends the writer, waits for reads that are under
// way, and closes the file. Whatever comes later fails with [ErrClosed].
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		<-db.done
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	close(db.closing)
	<-db.done
	return db.release()
}

// release gives back what is open, as far as it is.
func (db *DB) release() error {
	var errs []error
	db.timer.Stop()
	if db.bells != nil {
		errs = append(errs, db.bells.Close())
	}
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	for range db.opened { // a read that is under way ends first
		errs = append(errs, (<-db.readers).close())
	}
	if db.recent != nil {
		db.recent.end()
	}
	if db.turn != nil {
		errs = append(errs, db.turn.Close())
	}
	return errors.Join(errs...)
}

// Read runs f with a connection on which it may read. It sees every write that
// was acknowledged before, by whichever process.
func (db *DB) Read(ctx context.Context, f func(*Conn) error) error {
	select {
	case <-db.closing:
		return ErrClosed
	default:
	}
	select {
	case c := <-db.readers:
		defer func() { db.readers <- c }()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return f(c)
	case <-db.closing:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Recent returns what a write of this process kept under key by [Tx.Keep],
// if that is certainly what is stored at this moment. Nobody may change it.
func (db *DB) Recent(key string) (value any, ok bool) { return db.recent.get(key) }

// Alone reports whether no other process is known to have the file open.
func (db *DB) Alone() bool { return db.bells.alone() }

// Listen has hear called with what commits change: after each commit of this
// process (ours), and when a peer tells of one. hear must not block, and must
// not wait for a write.
func (db *DB) Listen(hear func(n Note, ours bool)) {
	db.listenMu.Lock()
	defer db.listenMu.Unlock()
	db.listen = append(db.listen, hear)
}

// heard passes a note on to the listeners.
func (db *DB) heard(n Note, ours bool) {
	db.listenMu.Lock()
	listen := db.listen
	db.listenMu.Unlock()
	for _, hear := range listen {
		hear(n, ours)
	}
}
