// Package store keeps the records of promises: the port, its errors, the
// stored form of a record, and an implementation in memory.
//
// # Schema
//
// A store holds one item for each promise: the record as [Encode] writes it,
// under its id, and beside it what a store needs to find and to guard it.
//
//	id          the key. Ids that start with P+"." or P+":" are P's descendants.
//	            Those of the protocol are stored as [promise.EncodeID] has them,
//	            schedules below [promise.Schedules]
//	rev         the guard: a write is accepted over rev-1 only
//	machine, created_at   the list index; written once, at create
//	due_at      the due index; sparse, absent when Record.DueAt is zero
//	state       for the list's filter; read after the index, never from it
//
// Everything is written by the engine; nobody else writes.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"modulate/internal/promise"
)

// The errors of the ports in this package. Whatever else a method returns
// means that its outcome is unknown: a write may have happened or may yet.
var (
	// ErrNotFound: there is no record with that id.
	ErrNotFound = errors.New("no such record")
	// ErrRefused: the guard of a write did not hold; nothing was written. The
	// error is a [*Refused], which carries what is stored.
	ErrRefused = errors.New("the stored record is another")
	// ErrThrottled: the store has no capacity now; nothing was written.
	ErrThrottled = errors.New("the store has no capacity left for now")
	// ErrFull: there is no room for the write; nothing was written.
	ErrFull = errors.New("the store has no room left")
	// ErrTooLarge: the writes are too large to be done at once; nothing was
	// written. Two of them never are.
	ErrTooLarge = errors.New("the writes are too large to be done at once")
	// ErrDeployment: the store is not there, or this program may not use it. No
	// try again helps before somebody has deployed or allowed what the error
	// says. A write may have happened at an earlier try.
	ErrDeployment = errors.New("the store is not deployed, or not open to this program")
)

// Refused is the error of a write whose guard did not hold. Stored is the
// record that stood in its way; its ID is empty when there was none.
type Refused struct{ Stored promise.Record }

// Error says which record refused.
func (r *Refused) Error() string {
	return fmt.Sprintf("%s: %q at rev %d", ErrRefused, r.Stored.ID, r.Stored.Rev)
}

// Is makes a Refused an [ErrRefused].
func (r *Refused) Is(target error) bool { return target == ErrRefused }

// A Store keeps records durably.
//
// Consistency: Get, Children and the guards of writes see every write that was
// acknowledged before they began, by whichever process. Due and List may lag
// behind and are hints.
// Durability: a write that has returned nil survives the loss of any process
// and of power.
// Outcomes: a write is done (nil), refused (ErrRefused, ErrThrottled, ErrFull, ErrTooLarge:
// nothing was written) or unknown (any other error, a context's too).
// Concurrency: all methods may be called at any time from any goroutine.
// Records passed in and out share no memory with the store.
type Store interface {
	// Create writes rec, whose Rev is 1, if its id is free.
	Create(ctx context.Context, rec promise.Record) error

	// Get returns the record with that id, or ErrNotFound.
	Get(ctx context.Context, id string) (promise.Record, error)

	// Replace writes next over the record with the same id and Rev-1.
	Replace(ctx context.Context, next promise.Record) error

	// ReplaceAll does all of writes, or none: at most [MaxWrites] on distinct
	// ids. The first whose guard does not hold is the one in Refused.
	ReplaceAll(ctx context.Context, writes []Write) error

	// Due returns the ids of up to limit records with 0 < DueAt <= now,
	// the earliest first.
	Due(ctx context.Context, now promise.Time, limit int) ([]string, error)

	// List returns records of scripts as q asks, newest first (CreatedAt, then ID, both
	// descending).
	List(ctx context.Context, q Query) (Page, error)

	// Children returns up to limit descendants of id with ids greater than
	// after, in ascending order of ids: children, their children, and so on.
	// What is detached is nobody's descendant. A colon behind a dot starts a
	// graph of its own: P.1:x is a descendant of P.1, and whether of P too is
	// the store's choice.
	Children(ctx context.Context, id, after string, limit int) ([]promise.Record, error)
}

// MaxWrites is the most that one ReplaceAll takes.
const MaxWrites = 90

// A Write is one part of a ReplaceAll. With Check nothing is written: the
// stored record must exist with exactly Record.Rev. Otherwise it is a Create
// when Record.Rev is 1, else a Replace.
type Write struct {
	Record promise.Record
	Check  bool
}

// Query says what to list. Zero fields do not filter.
type Query struct {
	Machine string
	State   *promise.State
	Prefix  string       // of the id
	Owner   string       // whose; required
	Since   promise.Time // created at or after
	Limit   int          // records in a page, 1 to 1000
	Cursor  string       // a Page's; opaque
}

// A Page is a part of a list. Cursor is empty on the last one. A page may hold
// fewer records than the limit, even none, and still have a cursor.
type Page struct {
	Records []promise.Record
	Cursor  string
}

// ErrCursor: the cursor of a query was not made by this store.
var ErrCursor = errors.New("the cursor is not one of this list's")

// A Watcher tells when records change. Stores that can notify implement it;
// for the others callers read again and again.
type Watcher interface {
	// Watch returns a channel that receives after each change of the record
	// with that id that is made after Watch was called, by any process (from
	// another one within 25 ms). Changes may be merged; spurious wake-ups are
	// allowed. stop ends the watch and must be called.
	Watch(id string) (changed <-chan struct{}, stop func())

	// WatchEnd is Watch for who waits for the promise to be terminal: the
	// changes before that need not wake it.
	WatchEnd(id string) (ended <-chan struct{}, stop func())
}

// A Searcher goes through all records in the order of their ids. It is for
// people and their tools: a call may cost as much as reading all there is.
type Searcher interface {
	// Search returns up to limit records with ids greater than after, in
	// ascending order of ids, consistently. ErrTooMany.
	Search(ctx context.Context, after string, limit int) ([]promise.Record, error)
}

// ErrTooMany: the store holds more than it can search in the time of a request.
var ErrTooMany = errors.New("the store holds too many promises to be searched")

// A Roster knows who works: workers announce themselves every minute, and who
// has not for [PresenceTTL] is gone. It is a hint: nothing is decided by it.
// Errors are those of Store.
type Roster interface {
	// Announce records p under its worker's name.
	Announce(ctx context.Context, p Presence) error
	// Retire forgets a worker that stopped in good order. Its machine stays
	// known.
	Retire(ctx context.Context, worker string) error
	// Present returns the workers announced at or after since, by machine and
	// name.
	Present(ctx context.Context, since promise.Time) ([]Presence, error)
	// Machines returns every machine that was ever announced, sorted.
	Machines(ctx context.Context) ([]string, error)
}

// PresenceEvery is how often a worker announces itself, and PresenceTTL how
// long that holds.
const (
	PresenceEvery = time.Minute
	PresenceTTL   = 150 * time.Second
)

// Presence is a worker as it last announced itself.
type Presence struct {
	Worker  string
	Machine string
	Slots   int
	Running int
	Started promise.Time
	Seen    promise.Time
}

// An Audience knows whose output somebody follows, so that a worker for which
// each piece is billed ships at once only what is waited for. It is a hint, and
// may lag by a second: nothing is lost where it is wrong. Errors are those of
// Store.
type Audience interface {
	// Follow notes that somebody follows the output of the promise with that id,
	// until that time. The last note of an id counts.
	Follow(ctx context.Context, id string, until promise.Time) error
	// Followed returns until when somebody follows it; 0: nobody did.
	Followed(ctx context.Context, id string) (promise.Time, error)
}

// FollowEvery is how often a follower is noted, and FollowTTL how long that
// holds.
const (
	FollowEvery = 30 * time.Second
	FollowTTL   = time.Minute
)

// The stored form: CBOR with integer keys, so that fields can be added and a
// plain call's record stays below 1 KB.
var (
	encoding, _ = cbor.EncOptions{Sort: cbor.SortNone, OmitEmpty: cbor.OmitEmptyGoValue}.EncMode()
	decoding, _ = cbor.DecOptions{}.DecMode()
)

// Encode returns the stored form of rec.
func Encode(rec *promise.Record) ([]byte, error) {
	b, err := encoding.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encoding record %s: %w", rec.ID, err)
	}
	return b, nil
}

// Decode reads what [Encode] wrote, now or in an earlier version. Fields that
// it does not know are dropped.
func Decode(b []byte) (rec promise.Record, err error) {
	if err := decoding.Unmarshal(b, &rec); err != nil {
		return promise.Record{}, fmt.Errorf("decoding a record of %d bytes: %w", len(b), err)
	}
	return rec, nil
}
