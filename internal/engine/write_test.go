package engine

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// A write is one way of changing a promise, from a state that it is made in.
// again is what a repetition may answer that comes after it has been done.
type write struct {
	name  string
	setup []promise.Event
	wait  time.Duration
	event promise.Event
	again []error
}

func writes(now promise.Time) []write {
	create := promise.Create{Record: draft("p", now)}
	claim := promise.Claim{Worker: "w", ClaimID: named("claim")}
	end := func(c promise.Cause) promise.Fulfil {
		return promise.Fulfil{Version: 1, ClaimID: named("claim"), SettleID: named("settle"), Outcome: promise.Outcome{Cause: c}}
	}
	ok, gone := []error{nil}, []error{promise.ErrVersion}
	return []write{
		{"create", nil, 0, create, []error{promise.ErrExists}},
		{"claim", []promise.Event{create}, 0, claim, ok},
		{"take over", []promise.Event{create, promise.Claim{Worker: "v", ClaimID: named("other")}}, time.Minute, claim, ok},
		{"acquire", []promise.Event{create}, 0, promise.Acquire{Worker: "w", ClaimID: named("claim")}, ok},
		{"extend", []promise.Event{create, claim}, time.Second, promise.Extend{Version: 1, ClaimID: named("claim")}, ok},
		{"release", []promise.Event{create, claim}, time.Second, promise.Release{Version: 1, ClaimID: named("claim"), Cause: promise.CauseDrained}, gone},
		{"fulfil", []promise.Event{create, claim}, time.Second, end(promise.CauseOK), ok},
		{"retry", []promise.Event{create, claim}, time.Second, end(promise.CauseExit), gone},
		{"bad host", []promise.Event{create, claim}, time.Second, end(promise.CauseBadHost), gone},
		{"late settle", []promise.Event{create, claim}, time.Minute, promise.LateSettle(end(promise.CauseOK)), ok},
		{"settle", []promise.Event{create}, time.Second, promise.Settle{State: promise.Rejected, SettleID: named("settle")}, ok},
		{"cancel", []promise.Event{create, claim}, time.Second, promise.Cancel{SettleID: named("settle")}, ok},
		{"time out", []promise.Event{create}, 24 * time.Hour, promise.View{}, ok},
		{"lose", []promise.Event{create, claim}, time.Minute, promise.Tick{}, ok},
		{"send again", []promise.Event{create}, time.Minute, promise.Tick{}, ok},
	}
}

// prepare brings a bench to the state that w is made in.
func (w write) prepare(t *testing.T) *bench {
	b := newBench(t)
	b.must("p", w.setup...)
	if w.name == "late settle" {
		b.pass(w.wait)
		b.must("p", promise.Tick{})
		return b
	}
	b.pass(w.wait)
	return b
}

func (w write) do(b *bench) error {
	if c, ok := w.event.(promise.Create); ok {
		_, err := b.Create(b.t.Context(), c.Record, nil)
		return err
	}
	_, err := b.Apply(b.t.Context(), "p", w.event)
	return err
}

// TestWriteFaults makes every write under every fault, then repeats it as its
// author would, and finds it done exactly once (rows 1, 3, 5, 12).
func TestWriteFaults(t *testing.T) {
	for _, w := range writes(newBench(t).clock) {
		t.Run(w.name, func(t *testing.T) {
			clean := w.prepare(t)
			if err := w.do(clean); err != nil {
				t.Fatal(err)
			}
			want := clean.stored("p")
			for _, f := range []fault{done, failed, persisted, doubled, throttled, full} {
				t.Run(string(f), func(t *testing.T) {
					b := w.prepare(t)
					before := b.stored("p")
					b.store.faults = []fault{f}
					err := w.do(b)
					switch f {
					case done, doubled:
						if err != nil {
							t.Fatalf("it was done, but: %v", err)
						}
					case throttled, full:
						if !isAny(err, store.ErrThrottled, store.ErrFull) {
							t.Fatalf("got %v", err)
						}
						fallthrough
					case failed:
						if got := b.stored("p"); !reflect.DeepEqual(got, before) {
							t.Fatalf("nothing was written, yet the record is\n%+v", got)
						}
						fallthrough
					default:
						if err == nil || errors.Is(err, store.ErrRefused) {
							t.Fatalf("an unknown outcome reads %v", err)
						}
					}
					again := w.do(b)
					if f != failed && f != throttled && f != full && !isAny(again, w.again...) {
						t.Errorf("repeated: %v", again)
					}
					if b.stored("p").Cascade {
						b.sweep() // finishes what the first try has begun
					}
					got := b.stored("p")
					if want.State == promise.TimedOut {
						got.Rev = want.Rev // the sweep may have moved the index first
					}
					if !reflect.DeepEqual(got, want) {
						t.Errorf("the record is\n%+v\nwant\n%+v", got, want)
					}
					b.findWork(want)
				})
			}
		})
	}
}

// findWork makes sure that a pending promise has a message in the end: its
// own, or the one that a sweep sends when the first did not come (row 2).
func (b *bench) findWork(rec promise.Record) {
	b.t.Helper()
	if rec.Task.State != promise.TaskPending {
		return
	}
	b.pass(2 * time.Hour)
	b.sweep()
	if b.depth() == 0 {
		b.t.Error("the promise is pending, and nobody will come for it")
	}
}

// TestOvertaken makes every write after somebody else has changed the record
// in a way that takes nothing from it: it is made all the same (row 46).
func TestOvertaken(t *testing.T) {
	for _, w := range writes(newBench(t).clock) {
		if w.name == "create" {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clean := w.prepare(t)
				if err := w.do(clean); err != nil {
					t.Fatal(err)
				}
				want := clean.stored("p")
				b := w.prepare(t)
				b.store.faults = []fault{overtaken, overtaken}
				b.store.overtake = b.touch
				if err := w.do(b); err != nil {
					t.Error(err)
				}
				want.Rev += 2
				if got := b.stored("p"); !reflect.DeepEqual(got, want) {
					t.Errorf("the record is\n%+v\nwant\n%+v", got, want)
				}
			})
		})
	}
}

// touch writes p anew, as a listener that is added to it would.
func (b *bench) touch() {
	b.t.Helper()
	rec, err := b.store.Memory.Get(b.t.Context(), "p")
	if err != nil {
		b.t.Fatal(err)
	}
	rec.Rev, rec.WriteID = rec.Rev+1, b.nonce()
	if err := b.store.Memory.Replace(b.t.Context(), rec); err != nil {
		b.t.Fatal(err)
	}
}

// TestGivesWay meets a store that is always ahead: the engine gives up after a
// bounded number of tries, and does not call the task lost.
func TestGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.must("p", promise.Create{Record: draft("p", b.clock)}, promise.Claim{Worker: "w", ClaimID: named("claim")})
		b.pass(time.Second)
		tries := 0
		b.store.overtake = func() {
			tries++
			b.touch()
		}
		for range 100 {
			b.store.faults = append(b.store.faults, overtaken)
		}
		_, err := b.Apply(t.Context(), "p", promise.Extend{Version: 1, ClaimID: named("claim")})
		if !errors.Is(err, store.ErrThrottled) || isAny(err, promise.ErrSettled, promise.ErrVersion) {
			t.Errorf("got %v", err)
		}
		if tries != swaps {
			t.Errorf("%d tries, want %d", tries, swaps)
		}
	})
}

// TestRefusedByAnEnd makes writes that somebody's end of the promise overtakes:
// only then is the task lost, and the record says why.
func TestRefusedByAnEnd(t *testing.T) {
	for _, w := range writes(newBench(t).clock) {
		switch w.name {
		case "claim", "extend", "release", "fulfil", "retry", "late settle", "settle":
		default:
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			b := w.prepare(t)
			b.store.before = func() { b.must("p", promise.Cancel{SettleID: named("cancel")}) }
			if err := w.do(b); !errors.Is(err, promise.ErrSettled) {
				t.Errorf("got %v", err)
			}
			if got := b.stored("p"); got.State != promise.Canceled || got.SettleID != named("cancel") {
				t.Errorf("stored: %s by %s", got.State, got.SettleID)
			}
		})
	}
}

// TestReads: what cannot be read is unknown, what is not there is not there.
func TestReads(t *testing.T) {
	b := newBench(t)
	if _, err := b.Get(t.Context(), "p"); !errors.Is(err, promise.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	b.must("p", promise.Create{Record: draft("p", b.clock)})
	b.store.gets = errLost
	if _, err := b.Get(t.Context(), "p"); !errors.Is(err, errLost) {
		t.Errorf("got %v", err)
	}
	b.store.gets = nil
	// A timeout is stored before it is told; if it cannot be stored, it is not
	// told.
	b.pass(24 * time.Hour)
	b.store.faults = []fault{failed}
	if rec, err := b.Get(t.Context(), "p"); err == nil || rec.State.Terminal() {
		t.Errorf("told %s, %v, and nothing is stored", rec.State, err)
	}
	if rec, err := b.Get(t.Context(), "p"); err != nil || rec.State != promise.TimedOut || b.stored("p").State != promise.TimedOut {
		t.Errorf("told %s, %v; stored %s", rec.State, err, b.stored("p").State)
	}
}
