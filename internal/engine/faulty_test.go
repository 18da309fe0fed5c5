package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// errLost is an answer that never came: the outcome is unknown.
var errLost = errors.New("the connection was lost")

// A fault is what becomes of one write.
type fault string

const (
	done      fault = "done"
	failed    fault = "failed"               // nothing written, the answer lost
	persisted fault = "failed but persisted" // written, the answer lost
	doubled   fault = "refused by itself"    // written, the answer lost, sent again below us, refused by our own write
	overtaken fault = "refused by another"   // somebody else wrote first
	throttled fault = "throttled"            // nothing written, and told so
	full      fault = "full"                 // likewise
)

// faultyStore is a memory store whose next writes befall what faults says;
// after that everything is done.
type faultyStore struct {
	*store.Memory
	mu       sync.Mutex
	faults   []fault
	overtake func() // what the other writer does
	before   func() // called once before the next write
	reading  func(id string)
	gets     error // what reads answer
	most     int   // writes at once; 0: any number
}

func (s *faultyStore) next() (f fault, before func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.before = s.before, nil
	f = done
	if len(s.faults) > 0 {
		f, s.faults = s.faults[0], s.faults[1:]
	}
	return f, before
}

func (s *faultyStore) write(do func() error) error {
	f, before := s.next()
	if before != nil {
		before()
	}
	switch f {
	case failed:
		return errLost
	case persisted:
		if err := do(); err != nil {
			return err
		}
		return errLost
	case doubled:
		if err := do(); err != nil {
			return err
		}
		return do()
	case overtaken:
		s.overtake()
	case throttled:
		return store.ErrThrottled
	case full:
		return store.ErrFull
	}
	return do()
}

func (s *faultyStore) Create(ctx context.Context, rec promise.Record) error {
	return s.write(func() error { return s.Memory.Create(ctx, rec) })
}

func (s *faultyStore) Replace(ctx context.Context, next promise.Record) error {
	return s.write(func() error { return s.Memory.Replace(ctx, next) })
}

func (s *faultyStore) ReplaceAll(ctx context.Context, writes []store.Write) error {
	if s.most > 0 && len(writes) > s.most {
		return store.ErrTooLarge
	}
	return s.write(func() error { return s.Memory.ReplaceAll(ctx, writes) })
}

func (s *faultyStore) Get(ctx context.Context, id string) (promise.Record, error) {
	s.mu.Lock()
	err, reading := s.gets, s.reading
	s.mu.Unlock()
	if err != nil {
		return promise.Record{}, err
	}
	if reading != nil {
		reading(id)
	}
	return s.Memory.Get(ctx, id)
}

// bench is an engine over memory ports with a clock that is set by hand.
type bench struct {
	*Engine
	t     *testing.T
	store *faultyStore
	queue *queue.Memory
	mu    sync.Mutex
	clock promise.Time
	made  uint64 // nonces
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, store: &faultyStore{Memory: store.NewMemory()}, queue: queue.NewMemory("cpu"), clock: 1_700_000_000_000}
	b.Engine = &Engine{Store: b.store, Queue: b.queue, Blobs: blob.NewMemory(), Now: b.now, Nonce: b.nonce}
	return b
}

func (b *bench) now() promise.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func (b *bench) nonce() (n promise.Nonce) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made++
	copy(n[:], fmt.Sprint("n", b.made))
	return n
}

// named is a nonce that tests can read.
func named(s string) (n promise.Nonce) {
	copy(n[:], s)
	return n
}

func draft(id string, now promise.Time) promise.Record {
	return promise.Record{
		ID: id, Owner: "local", Machine: "cpu", DeadlineAt: now.Add(24 * time.Hour),
		Call: promise.Call{
			Name: "foo.py", Timeout: time.Minute, Lease: 30 * time.Second,
			Retry: promise.Retry{Policy: promise.Constant, MaxAttempts: 3, Delay: time.Second, MaxDelay: time.Second},
		},
	}
}

// must applies events that are to succeed.
func (b *bench) must(id string, events ...promise.Event) promise.Record {
	b.t.Helper()
	var rec promise.Record
	for _, ev := range events {
		var err error
		if c, ok := ev.(promise.Create); ok {
			rec, err = b.Create(b.t.Context(), c.Record, nil)
		} else {
			rec, err = b.Apply(b.t.Context(), id, ev)
		}
		if err != nil {
			b.t.Fatalf("%T: %v", ev, err)
		}
	}
	return rec
}

// stored is the record without what differs from write to write.
func (b *bench) stored(id string) promise.Record {
	b.t.Helper()
	rec, err := b.store.Memory.Get(b.t.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return promise.Record{}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	rec.WriteID = promise.Nonce{}
	return rec
}

// messages takes the ids of all messages, the delayed ones too.
func (b *bench) depth() int {
	b.t.Helper()
	d, err := b.queue.Depth(b.t.Context(), "cpu")
	if err != nil {
		b.t.Fatal(err)
	}
	return d.Visible + d.Delayed + d.InFlight
}

// sweep ticks what is due, once.
func (b *bench) sweep() {
	b.t.Helper()
	ids, err := b.store.Due(b.t.Context(), b.now(), 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := b.Apply(b.t.Context(), id, promise.Tick{}); err != nil {
			b.t.Fatalf("ticking %s: %v", id, err)
		}
	}
}

// isAny reports whether err is one of sentinels; nil counts as an error too.
func isAny(err error, sentinels ...error) bool {
	return slices.ContainsFunc(sentinels, func(s error) bool {
		return err == nil && s == nil || s != nil && errors.Is(err, s)
	})
}
