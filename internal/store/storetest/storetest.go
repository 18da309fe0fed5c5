// Package storetest is the conformance suite of package store's ports. Every
// implementation runs it; a subtest stands for a sentence of the contract.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// Run runs the suite over the stores that open returns, each empty. Each is a
// [store.Searcher] too, and those that are a [store.Watcher], a [store.Roster] or
// a [store.Audience] are tested as that.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, group := range []struct {
		name  string
		tests func() []test
	}{
		{"Create", creates}, {"Get", gets}, {"Replace", replaces}, {"ReplaceAll", replaceAlls},
		{"Due", dues}, {"List", lists}, {"Children", children}, {"All", alls},
		{"Search", searches}, {"Watch", watches}, {"Roster", rosters}, {"Audience", audiences},
	} {
		if !offers(open(t), group.name) {
			continue
		}
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests() {
				t.Run(test.name, func(t *testing.T) {
					test.run(&suite{T: t, Store: open(t)})
				})
			}
		})
	}
}

// offers reports whether a store has what a group tests and not every store
// has.
func offers(s store.Store, group string) bool {
	_, watches := s.(store.Watcher)
	_, follows := s.(store.Audience)
	switch group {
	case "Watch":
		return watches
	case "Audience":
		return follows
	default:
		return true
	}
}

type test struct {
	name string
	run  func(*suite)
}

// suite is one test and its store.
type suite struct {
	*testing.T
	store.Store
}

// patience is how long the suite waits for what must happen.
const patience = 10 * time.Second

// record returns a new pending promise with something in most of its fields.
func record(id string) promise.Record {
	return promise.Record{
		ID: id, Rev: 1, WriteID: nonce(id, 1), Owner: "local", Machine: "cpu",
		Call: promise.Call{
			Name: "hello.py", Script: promise.Hash{1, 2, 3}, Runtime: "python",
			Input: promise.Input{
				Args: []string{"--n", "1"}, Env: map[string]string{"A": "b"},
				Files: []promise.File{{Name: "in.csv", SHA256: promise.Hash{4}, Size: 9}},
				Tags:  map[string]string{"team": "ml"},
			},
			Timeout: time.Minute, Lease: 30 * time.Second,
		},
		CreatedAt: 1_000, DeadlineAt: 1_000_000,
		Task: promise.Task{State: promise.TaskPending},
	}
}

// after returns what follows rec: one rev higher, written by another.
func after(rec promise.Record) promise.Record {
	rec = store.Clone(rec)
	rec.Rev++
	rec.WriteID = nonce(rec.ID, rec.Rev)
	rec.Attempt++
	rec.Attempts = append(rec.Attempts, promise.Attempt{Number: rec.Attempt, Version: rec.Rev, Worker: "w1"})
	return rec
}

// settled returns rec as it ends.
func settled(rec promise.Record) promise.Record {
	rec = after(rec)
	rec.State, rec.SettledAt, rec.DueAt = promise.Resolved, rec.CreatedAt+1, 0
	rec.Outcome = promise.Outcome{
		Cause:  promise.CauseOK,
		Result: promise.Body{Size: 2, Inline: []byte("{}")},
		Stdout: promise.Stream{Size: 3, Tail: []byte("ok\n")},
	}
	return rec
}

// nonce returns one that is particular to a write.
func nonce(id string, rev uint64) (n promise.Nonce) {
	copy(n[:], fmt.Sprintf("%d %s", rev, id))
	return n
}

// ok ends the test if err is not nil.
func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// create stores recs.
func (s *suite) create(recs ...promise.Record) {
	s.Helper()
	for _, rec := range recs {
		s.ok(s.Create(s.Context(), rec))
	}
}

// holds checks that rec is what is stored under its id.
func (s *suite) holds(rec promise.Record) {
	s.Helper()
	got, err := s.Get(s.Context(), rec.ID)
	s.ok(err)
	s.same(got, rec)
}

// absent checks that nothing is stored under id.
func (s *suite) absent(id string) {
	s.Helper()
	if rec, err := s.Get(s.Context(), id); !errors.Is(err, store.ErrNotFound) {
		s.Errorf("%s is stored at rev %d (%v), want ErrNotFound", id, rec.Rev, err)
	}
}

func (s *suite) same(got, want promise.Record) {
	s.Helper()
	if !reflect.DeepEqual(got, want) {
		s.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// refused checks that err is a refusal by want; the zero Record: by nothing.
func (s *suite) refused(err error, want promise.Record) {
	s.Helper()
	var refused *store.Refused
	if !errors.As(err, &refused) || !errors.Is(err, store.ErrRefused) {
		s.Fatalf("got %v, want a refusal", err)
	}
	s.same(refused.Stored, want)
}

// fails checks that err is some error other than a refusal.
func (s *suite) fails(err error, what string) {
	s.Helper()
	if err == nil || errors.Is(err, store.ErrRefused) {
		s.Errorf("%s: got %v, want an error that says what is wrong", what, err)
	}
}

// ids returns the ids of recs.
func ids(recs []promise.Record) []string {
	var ids []string
	for _, rec := range recs {
		ids = append(ids, rec.ID)
	}
	return ids
}

func (s *suite) equal(got, want []string) {
	s.Helper()
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		s.Errorf("got  %q\nwant %q", got, want)
	}
}

// cancelled returns a context that has ended, and the cause.
func cancelled() (context.Context, error) {
	cause := errors.New("the caller is gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return ctx, cause
}
