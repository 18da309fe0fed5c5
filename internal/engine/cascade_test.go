package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// stopped is what a process panics with that is stopped at a point.
type stopped string

// dying runs do in a process that stops at the n-th (from 1) time that it
// comes to point, and reports whether it did.
func (b *bench) dying(point string, n int, do func(e *Engine)) (died bool) {
	e := *b.Engine
	e.Fail = func(at string) {
		if at == point {
			if n--; n == 0 {
				panic(stopped(at))
			}
		}
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(stopped); !ok {
				panic(r)
			}
			died = true
		}
	}()
	do(&e)
	return false
}

// family makes a parent with children, grandchildren and a stranger whose id
// only looks like a child's, and returns the ids of the descendants.
func (b *bench) family(children int) (below []string) {
	b.t.Helper()
	b.must("p", promise.Create{Record: draft("p", b.now())})
	b.must("pp", promise.Create{Record: draft("pp", b.now())})
	for i := range children {
		child := promise.ChildID("p", i+1)
		b.attach(child, "p")
		below = append(below, child)
		if i%3 == 0 {
			b.attach(child+".1", child)
			below = append(below, child+".1")
		}
	}
	return below
}

func (b *bench) attach(id, parent string) {
	b.t.Helper()
	rec := draft(id, b.now())
	rec.Parent = parent
	if _, err := b.Create(b.t.Context(), rec, &Parent{ID: parent}); err != nil {
		b.t.Fatal(err)
	}
}

// checkFamily wants everything below p cancelled, nothing left to do, and the
// stranger untouched.
func (b *bench) checkFamily(below []string) {
	b.t.Helper()
	for _, id := range below {
		if rec := b.stored(id); rec.State != promise.Canceled || rec.Cascade {
			b.t.Errorf("%s is %s, cascade %v", id, rec.State, rec.Cascade)
		}
	}
	if rec := b.stored("p"); rec.Cascade || rec.DueAt != 0 {
		b.t.Errorf("p: cascade %v, due at %d", rec.Cascade, rec.DueAt)
	}
	if rec := b.stored("pp"); rec.State != promise.Pending {
		b.t.Errorf("pp is %s", rec.State)
	}
}

// TestCascadeStopped stops the canceller at every step there is; each time a
// sweep finishes what it began (row 49).
func TestCascadeStopped(t *testing.T) {
	for _, ev := range []promise.Event{promise.Cancel{SettleID: named("cancel")}, promise.View{}} {
		for _, point := range []string{PointWritten, PointCancelled, PointCascaded} {
			deaths := 0
			for n := 1; ; n++ {
				b := newBench(t)
				below := b.family(4)
				if _, cancel := ev.(promise.Cancel); !cancel {
					b.deadline("p", below)
				}
				died := b.dying(point, n, func(e *Engine) {
					if _, err := e.Apply(t.Context(), "p", ev); err != nil {
						t.Errorf("%T: %v", ev, err)
					}
				})
				if died {
					deaths++
					for range 3 { // a child may itself have been left half-way
						b.pass(5 * time.Second)
						b.sweep()
					}
				}
				b.checkFamily(below)
				if !died {
					break
				}
			}
			if deaths == 0 {
				t.Errorf("%T never came to %s", ev, point)
			}
		}
	}
}

// deadline lets p's deadline pass, and not those of the others.
func (b *bench) deadline(id string, others []string) {
	b.t.Helper()
	b.pass(24 * time.Hour)
	for _, other := range append([]string{"pp"}, others...) {
		rec, err := b.store.Memory.Get(b.t.Context(), other)
		if err != nil {
			b.t.Fatal(err)
		}
		rec.Rev++
		rec.DeadlineAt = rec.DeadlineAt.Add(time.Hour)
		if err := b.store.Memory.Replace(b.t.Context(), rec); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestCascadeFaults makes every write of a cascade fail, once and persisting.
func TestCascadeFaults(t *testing.T) {
	for _, f := range []fault{failed, persisted, throttled} {
		for n := range 10 {
			b := newBench(t)
			below := b.family(5)
			b.store.faults = append(make([]fault, n), f)
			_, err := b.Apply(t.Context(), "p", promise.Cancel{SettleID: named("cancel")})
			if n > 0 && err != nil {
				t.Errorf("write %d %s: %v, though the promise itself was cancelled", n, f, err)
			}
			if err != nil {
				b.must("p", promise.Cancel{SettleID: named("again")})
			}
			for range 3 {
				b.pass(5 * time.Second)
				b.sweep()
			}
			b.checkFamily(below)
		}
	}
}

// TestCascadeOfMany has more descendants than one look returns.
func TestCascadeOfMany(t *testing.T) {
	b := newBench(t)
	below := b.family(120)
	b.must("p", promise.Cancel{SettleID: named("cancel")})
	b.checkFamily(below)
}

// TestEndsWithoutCascade: what is attached goes on when its parent merely ends.
func TestEndsWithoutCascade(t *testing.T) {
	b := newBench(t)
	b.family(1)
	b.must("p", promise.Settle{State: promise.Resolved, SettleID: named("settle")})
	b.pass(time.Minute)
	b.sweep()
	if rec := b.stored("p.1"); rec.State != promise.Pending {
		t.Errorf("the child is %s", rec.State)
	}
}

// TestChildOfWhatEnds ends the parent at each moment of its child's creation:
// the child is either refused or cancelled with it.
func TestChildOfWhatEnds(t *testing.T) {
	claim := &Parent{ID: "p", Version: 1, Claim: named("claim")}
	cases := []struct {
		name   string
		parent *Parent
		before func(b *bench) // the child's write
		want   error
	}{
		{"nothing happens", claim, func(b *bench) {}, nil},
		{"extended", claim, func(b *bench) {
			b.pass(time.Second)
			b.must("p", promise.Extend{Version: 1, ClaimID: named("claim")})
		}, nil},
		{"cancelled", claim, func(b *bench) { b.must("p", promise.Cancel{SettleID: named("c")}) }, promise.ErrParent},
		{"settled", claim, func(b *bench) {
			b.must("p", promise.Fulfil{Version: 1, ClaimID: named("claim"), SettleID: named("s"), Outcome: promise.Outcome{Cause: promise.CauseOK}})
		}, promise.ErrParent},
		{"released", claim, func(b *bench) {
			b.must("p", promise.Release{Version: 1, ClaimID: named("claim"), Cause: promise.CauseDrained})
		}, promise.ErrParent},
		{"released, asked from outside", &Parent{ID: "p"}, func(b *bench) {
			b.must("p", promise.Release{Version: 1, ClaimID: named("claim"), Cause: promise.CauseDrained})
		}, nil},
		{"taken over", claim, func(b *bench) {
			b.pass(time.Minute)
			b.must("p", promise.Claim{Worker: "v", ClaimID: named("other")})
		}, promise.ErrParent},
		{"timed out", claim, func(b *bench) {
			b.pass(24 * time.Hour)
			b.must("p", promise.View{})
		}, promise.ErrParent},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.must("p", promise.Create{Record: draft("p", b.now())}, promise.Claim{Worker: "w", ClaimID: named("claim")})
			rec := draft("p.1", b.now())
			b.store.before = func() { c.before(b) }
			_, err := b.Create(t.Context(), rec, c.parent)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if stored := b.stored("p.1"); (stored.ID != "") != (c.want == nil) {
				t.Errorf("stored is %q", stored.ID)
			}
		})
	}
}

// TestChildFaults repeats the creation of a child under every fault.
func TestChildFaults(t *testing.T) {
	parent := &Parent{ID: "p", Version: 1, Claim: named("claim")}
	for _, f := range []fault{done, failed, persisted, doubled, throttled} {
		t.Run(string(f), func(t *testing.T) {
			b := newBench(t)
			b.must("p", promise.Create{Record: draft("p", b.now())}, promise.Claim{Worker: "w", ClaimID: named("claim")})
			b.store.faults = []fault{f}
			_, err := b.Create(t.Context(), draft("p.1", b.now()), parent)
			if ok := f == done || f == doubled; ok != (err == nil) {
				t.Errorf("got %v", err)
			}
			again, err := b.Create(t.Context(), draft("p.1", b.now()), parent)
			if f == failed || f == throttled {
				if err != nil {
					t.Errorf("repeated: %v", err)
				}
			} else if !errors.Is(err, promise.ErrExists) || again.ID != "p.1" {
				t.Errorf("repeated: %q, %v", again.ID, err)
			}
			if rec := b.stored("p.1"); rec.Rev != 1 {
				t.Errorf("rev %d", rec.Rev)
			}
		})
	}
	b := newBench(t)
	if _, err := b.Create(t.Context(), draft("p.1", b.now()), parent); !errors.Is(err, promise.ErrNotFound) {
		t.Errorf("a child of nobody: %v", err)
	}
}

// TestStoredBeforeSent looks at the store from inside the queue: no message is
// sent for what is not there yet (row 4).
func TestStoredBeforeSent(t *testing.T) {
	b := newBench(t)
	b.Engine.Queue = witness{b.queue, func(id string, version uint64) {
		rec, err := b.store.Memory.Get(t.Context(), id)
		if errors.Is(err, store.ErrNotFound) || rec.Task.State != promise.TaskPending || rec.Task.Version != version {
			t.Errorf("sent %s v%d, stored: %s v%d, %v", id, version, rec.Task.State, rec.Task.Version, err)
		}
	}}
	b.must("p", promise.Create{Record: draft("p", b.now())}, promise.Claim{Worker: "w", ClaimID: named("claim")},
		promise.Release{Version: 1, ClaimID: named("claim"), Cause: promise.CauseDrained})
	b.pass(time.Minute)
	b.sweep()
	if b.depth() != 3 {
		t.Errorf("%d messages", b.depth())
	}
}

// TestStoppedBeforeSending: a router that stops between the two leaves a
// promise that the sweep sends for after a minute (row 2).
func TestStoppedBeforeSending(t *testing.T) {
	b := newBench(t)
	if !b.dying(PointWritten, 1, func(e *Engine) {
		_, err := e.Create(t.Context(), draft("p", b.now()), nil)
		t.Errorf("created: %v", err)
	}) {
		t.Fatal("it did not stop")
	}
	b.pass(59 * time.Second)
	b.sweep()
	if n := b.depth(); n != 0 {
		t.Fatalf("%d messages before they are due", n)
	}
	b.pass(time.Second)
	b.sweep()
	got, err := b.queue.Receive(t.Context(), "cpu", 10, time.Minute, 0)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	if m, err := queue.Decode(got[0].Body); err != nil || m.ID != "p" {
		t.Errorf("message for %q, %v", m.ID, err)
	}
}

// TestArchiveStopped stops a worker between archiving an attempt and writing
// the record, and then lets another claim.
func TestArchiveStopped(t *testing.T) {
	b := newBench(t)
	b.must("p", promise.Create{Record: draft("p", b.now())})
	for i := range 6 {
		b.attempt(i + 1)
	}
	if !b.dying(PointArchived, 1, func(e *Engine) {
		_, err := e.Apply(t.Context(), "p", promise.Claim{Worker: "w", ClaimID: named("dead")})
		t.Errorf("claimed: %v", err)
	}) {
		t.Fatal("it did not stop")
	}
	if rec := b.stored("p"); rec.Attempt != 6 {
		t.Fatalf("%d attempts", rec.Attempt)
	}
	b.attempt(7)
	b.checkAttempts(7)
}

// attempt is one that is given back.
func (b *bench) attempt(n int) {
	b.t.Helper()
	b.pass(time.Second)
	claim := named(fmt.Sprint("claim", n))
	rec := b.must("p", promise.Claim{Worker: fmt.Sprint("w", n), ClaimID: claim})
	b.pass(time.Second)
	b.must("p", promise.Release{Version: rec.Task.Version, ClaimID: claim, Cause: promise.CauseDrained})
}
