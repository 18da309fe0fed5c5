package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// rideFor is the longest that an operation waits for a commit to ride with.
const rideFor = 15 * time.Millisecond

// maxBatch is how many operations share a commit at most.
const maxBatch = 512

// A Tx is what an operation writes through. It may be used only while the
// operation runs.
type Tx struct {
	*Conn
	kept  []entry
	notes []Note
	after []func()
}

// Keep says that the operation stored under key what is value in memory, of
// about size bytes, for [DB.Recent]. Nobody may change value from now on. nil:
// what was kept is no longer stored.
func (tx *Tx) Keep(key string, value any, size int) {
	tx.kept = append(tx.kept, entry{key, value, size})
}

// Note says what the operation changed, for [DB.Listen] and for the peers.
func (tx *Tx) Note(n Note) { tx.notes = append(tx.notes, n) }

// OnCommit has f called by the writer after the commit.
func (tx *Tx) OnCommit(f func()) { tx.after = append(tx.after, f) }

// op is an operation. Its run may be called again after it was undone.
type op struct {
	run   func(*Tx) error
	state atomic.Int32
	early bool       // answered before the commit
	done  chan error // capacity 1; nil: nobody waits
	lost  func()     // called when nothing was written and nobody waits; nil: nobody cares
	err   error      // what run said
	told  bool       // it was answered
}

// The states of an op.
const (
	queued int32 = iota
	taken
	withdrawn
)

// answer tells who waits, once.
func (o *op) answer(err error) {
	if o.done == nil {
		if err != nil && o.lost != nil {
			o.lost()
		}
		return
	}
	if !o.told {
		o.told = true
		o.done <- err
	}
}

// Write runs run in a transaction and returns when that is committed: what run
// said, or why it could not be committed. ErrFull, ErrClosed: nothing was
// written. An error of run must mean that it has written nothing.
//
// When ctx ends first and the operation is not yet under way, nothing is
// written and the error is ctx's cause alone; later the outcome is unknown.
//
// run may be called on another goroutine: it must not block, and everything
// that it does outside the Tx must bear to be done again.
func (db *DB) Write(ctx context.Context, run func(*Tx) error) error {
	return db.do(ctx, &op{run: run, done: make(chan error, 1)})
}

// along is the key of what a context carries for the writes of a file.
type along struct{ db *DB }

// Along returns a context that carries run, beside what ctx carries: who writes
// under it has all of that run in the same transaction, see [DB.Carried]. run is
// as that of Write, and writes the same however often it is done.
func (db *DB) Along(ctx context.Context, run func(*Tx) error) context.Context {
	before := db.Carried(ctx)
	return context.WithValue(ctx, along{db}, func(tx *Tx) error {
		if err := before(tx); err != nil {
			return err
		}
		return run(tx)
	})
}

// Carried returns what runs all that ctx carries for this file.
func (db *DB) Carried(ctx context.Context) func(*Tx) error {
	if run, ok := ctx.Value(along{db}).(func(*Tx) error); ok {
		return run
	}
	return func(*Tx) error { return nil }
}

// Ask is Write, but returns as soon as run has run: what it wrote may yet be
// lost.
func (db *DB) Ask(ctx context.Context, run func(*Tx) error) error {
	return db.do(ctx, &op{run: run, done: make(chan error, 1), early: true})
}

func (db *DB) do(ctx context.Context, o *op) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := db.enqueue(o); err != nil {
		return err
	}
	if o.early {
		db.Hurry()
	} else {
		db.lead(ctx)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
	}
	if o.state.CompareAndSwap(queued, withdrawn) {
		return context.Cause(ctx)
	}
	if o.early { // it is about to run
		return <-o.done
	}
	select {
	case err := <-o.done:
		return err
	default:
		return fmt.Errorf("the outcome of a write is unknown: %w", context.Cause(ctx))
	}
}

// lead commits what is pending here and now, if nobody else is writing: for
// one caller alone two changes of goroutine would cost as much as the rest.
// Whoever is writing looks at what is pending when he has done.
func (db *DB) lead(ctx context.Context) {
	if db.writing.TryLock() {
		_ = db.round(ctx.Done())
		db.writing.Unlock()
		if db.awaited() {
			db.Hurry()
		}
	}
}

// Ride has run run in the next transaction, or in one of its own after 15 ms
// if there is none. Operations run in the order in which they came, those of
// Write and Ask included. The writer calls lost, unless it is nil, when nothing
// was written; nobody is told that of a db which is closed already.
func (db *DB) Ride(run func(*Tx) error, lost func()) {
	_ = db.enqueue(&op{run: run, lost: lost})
}

// Hurry has what rides committed now.
func (db *DB) Hurry() {
	select {
	case db.wake <- struct{}{}:
	default:
	}
}

func (db *DB) enqueue(o *op) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	db.pending = append(db.pending, o)
	if o.done == nil && !db.riding {
		db.riding = true
		db.timer.Reset(rideFor)
	}
	return nil
}

// write is the goroutine that commits what no caller does: what rides, and
// what comes while others write.
func (db *DB) write() {
	defer close(db.done)
	for {
		select {
		case <-db.wake:
		case <-db.timer.C:
		case <-db.closing:
			db.writing.Lock()
			for db.anyPending() {
				_ = db.round(nil)
			}
			db.writing.Unlock()
			return
		}
		for more := true; more; {
			db.writing.Lock()
			more = db.round(nil) == nil && db.grow()
			db.writing.Unlock()
			more = db.awaited() || more
		}
	}
}

func (db *DB) anyPending() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.pending) > 0
}

// awaited reports whether something is pending that somebody waits for.
func (db *DB) awaited() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.ContainsFunc(db.pending, func(o *op) bool { return o.done != nil })
}

// errAbandoned: the caller who was leading is gone; others go on.
var errAbandoned = errors.New("abandoned")

// round commits one batch, if anything is pending. db.writing is held.
// Whatever fails is answered there; the error says that nothing was tried.
func (db *DB) round(abandon <-chan struct{}) error {
	if !db.anyPending() {
		return nil
	}
	if db.crowd > 1 {
		runtime.Gosched() // whom the last commit answered may have more to write: it comes along
	}
	err := db.begin(abandon)
	if err == errAbandoned {
		return err
	}
	batch := db.take()
	db.crowd = 0
	for _, o := range batch {
		if o.done != nil {
			db.crowd++
		}
	}
	if err != nil {
		for _, o := range batch {
			o.answer(err)
		}
		return err
	}
	if !db.commit(batch) {
		db.oneByOne(batch)
	}
	return nil
}

// take removes a batch from what is pending: its operations are under way.
func (db *DB) take() []*op {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := min(len(db.pending), maxBatch)
	batch := make([]*op, 0, n)
	for _, o := range db.pending[:n] {
		if o.state.CompareAndSwap(queued, taken) {
			batch = append(batch, o)
		}
	}
	rest := copy(db.pending, db.pending[n:])
	clear(db.pending[rest:])
	db.pending = db.pending[:rest]
	db.riding = rest > 0
	if db.riding {
		db.Hurry()
	}
	return batch
}

// begin starts a transaction that may write, once no other process is in one.
// errAbandoned when abandon is closed first.
func (db *DB) begin(abandon <-chan struct{}) error {
	end := db.turn.take()
	defer end()
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		_, err := db.writer.Exec("BEGIN IMMEDIATE")
		if err == nil {
			return nil
		}
		if !isBusy(err) {
			return explain(fmt.Errorf("beginning a transaction: %w", err))
		}
		closing := db.closing
		if wait < 10*time.Millisecond {
			closing = nil // a commit of another's may take as long
		}
		select {
		case <-abandon:
			return errAbandoned
		case <-closing:
			return fmt.Errorf("another process holds the store: %w", ErrClosed)
		case <-time.After(wait):
		}
	}
}

// commit runs batch in the transaction that is open and commits it. It reports
// false when it had to undo everything because one of several failed.
func (db *DB) commit(batch []*op) (done bool) {
	tx := &Tx{Conn: db.writer, kept: make([]entry, 0, len(batch)), notes: make([]Note, 0, len(batch))}
	tx.failed, tx.changes = nil, 0
	for _, o := range batch {
		o.err = o.run(tx)
		if tx.failed != nil {
			break
		}
		if o.early {
			o.answer(o.err)
		}
	}
	err := tx.failed
	if err == nil {
		err = db.end(tx)
	}
	if err != nil {
		return db.undo(batch, err)
	}
	for _, o := range batch {
		o.answer(o.err)
	}
	for _, f := range tx.after {
		f()
	}
	for _, n := range tx.notes {
		db.heard(n, true)
	}
	db.bells.ring(tx.notes)
	return true
}

// end commits what tx wrote, if anything.
func (db *DB) end(tx *Tx) error {
	if tx.changes == 0 {
		_, err := tx.Exec("ROLLBACK")
		return err
	}
	db.recent.committing(tx.kept)
	if _, err := tx.Exec("COMMIT"); err != nil {
		db.recent.committed(nil)
		return fmt.Errorf("committing: %w", err)
	}
	db.recent.committed(tx.kept)
	if db.commits++; db.commits == growAfter {
		db.Hurry()
	}
	return nil
}

// undo rolls back a batch that failed by err. It reports whether its only
// operation was answered with that.
func (db *DB) undo(batch []*op, err error) (answered bool) {
	// An error leaves a transaction open or not; out of one this fails.
	_, _ = db.writer.Exec("ROLLBACK")
	if len(batch) > 1 {
		return false
	}
	for _, o := range batch {
		o.answer(explain(err))
	}
	return true
}

// oneByOne gives each operation of a batch that failed its own transaction.
// What was answered early is lost.
func (db *DB) oneByOne(batch []*op) {
	for _, o := range batch {
		if o.told {
			continue
		}
		if err := db.begin(nil); err != nil {
			o.answer(err)
			continue
		}
		db.commit([]*op{o})
	}
}
