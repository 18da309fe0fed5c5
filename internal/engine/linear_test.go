package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// slowStore takes a while on the way there and back.
type slowStore struct{ *store.Memory }

func travel() { time.Sleep(rand.N(20 * time.Millisecond)) }

// Get is that of [store.Store].
func (s slowStore) Get(ctx context.Context, id string) (promise.Record, error) {
	travel()
	defer travel()
	return s.Memory.Get(ctx, id)
}

// Replace is that of [store.Store].
func (s slowStore) Replace(ctx context.Context, next promise.Record) error {
	travel()
	defer travel()
	return s.Memory.Replace(ctx, next)
}

// ask is an operation: to end the promise as wants, or to read it where that
// is Pending. It knows when it was asked and answered.
type ask struct {
	wants                   promise.State
	called, ended, deadline promise.Time
	told                    promise.State
	done                    bool // it ended the promise, or found that it had
	lost                    bool // something else had ended it
}

// end asks once.
func end(b *Engine, wants promise.State, deadline promise.Time) ask {
	a := ask{wants: wants, called: b.now(), deadline: deadline}
	var rec promise.Record
	var err error
	switch wants {
	case promise.Pending:
		rec, err = b.Get(context.Background(), "p")
	case promise.Canceled:
		rec, err = b.Apply(context.Background(), "p", promise.Cancel{SettleID: b.NewNonce()})
	default:
		rec, err = b.Apply(context.Background(), "p", promise.Settle{State: wants, SettleID: b.NewNonce()})
	}
	a.ended, a.told, a.done = b.now(), rec.State, err == nil
	a.lost = errors.Is(err, promise.ErrSettled)
	return a
}

// follows is the promise as one would explain it: was is its state, the result
// the state after a, and whether its answer agrees.
func follows(was promise.State, a ask) (bool, promise.State) {
	if was == promise.Pending && a.told == promise.TimedOut {
		was = promise.TimedOut
		if a.ended < a.deadline {
			return false, was // nobody's time was over
		}
	}
	if was == promise.Pending && a.called >= a.deadline {
		return false, was // it was over
	}
	switch {
	case a.wants == promise.Pending:
		return a.done && a.told == was, was
	case was == promise.Pending:
		return a.done && a.told == a.wants, a.wants
	case was == promise.Canceled && a.wants == promise.Canceled:
		return a.done && a.told == was, was // again
	default:
		return a.lost && a.told == was, was
	}
}

// TestEndsAreLinearizable lets cancels, settles and reads race each other and
// the deadline: there is one order of them that agrees with time and explains
// every answer (rows 22 and 23).
func TestEndsAreLinearizable(t *testing.T) {
	model := porcupine.Model{
		Init: func() any { return promise.Pending },
		Step: func(state, _, output any) (bool, any) {
			ok, next := follows(state.(promise.State), output.(ask))
			return ok, next
		},
	}
	ends := map[promise.State]int{}
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			history, last := race(t)
			ends[last]++
			if verdict := porcupine.CheckOperationsTimeout(model, history, time.Minute); verdict != porcupine.Ok {
				t.Errorf("%s: %+v", verdict, history)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("ends: %v", ends)
	for _, s := range []promise.State{promise.Resolved, promise.Rejected, promise.Canceled, promise.TimedOut} {
		if ends[s] == 0 {
			t.Errorf("no race of 200 ended as %s", s)
		}
	}
}

// race is what six people ask of one promise around its deadline.
func race(t *testing.T) (history []porcupine.Operation, last promise.State) {
	b := &Engine{Store: slowStore{store.NewMemory()}, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	rec := draft("p", b.now())
	rec.DeadlineAt = b.now().Add(250 * time.Millisecond)
	if _, err := b.Create(t.Context(), rec, nil); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for client := range 6 {
		all.Go(func() {
			for range 5 {
				time.Sleep(rand.N(120 * time.Millisecond))
				wants, seldom := promise.Pending, 30
				if rec.DeadlineAt.Sub(b.now()).Abs() < 50*time.Millisecond {
					seldom = 2
				}
				if rand.N(seldom) == 0 {
					wants = []promise.State{promise.Resolved, promise.Rejected, promise.Canceled}[rand.N(3)]
				}
				a := end(b, wants, rec.DeadlineAt)
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: a.wants, Output: a, Call: int64(a.called), Return: int64(a.ended)})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	final, err := b.Get(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	return history, final.State
}
