package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// deaf is a store that tells nobody of changes, and counts reads.
type deaf struct {
	store.Store
	gets atomic.Int32
}

// Get counts.
func (d *deaf) Get(ctx context.Context, id string) (promise.Record, error) {
	d.gets.Add(1)
	return d.Store.Get(ctx, id)
}

func waiting(t *testing.T, s store.Store, deadline time.Duration) *Engine {
	t.Helper()
	e := &Engine{Store: s, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	rec := promise.Record{ID: "x", Machine: "cpu", Owner: "o", DeadlineAt: e.Time().Add(deadline)}
	if _, err := e.Create(t.Context(), rec, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// wait waits for the end of the promise x, or for d.
func wait(ctx context.Context, e *Engine, d time.Duration) (promise.Record, error) {
	w := e.WatchEnd("x")
	defer w.Stop()
	rec, err := e.Get(ctx, "x")
	if err != nil {
		return rec, err
	}
	return w.Wait(ctx, rec, d)
}

// claimX and cancelX do that to the promise x.
func claimX(t *testing.T, e *Engine) {
	if _, err := e.Apply(t.Context(), "x", promise.Claim{Worker: "w", ClaimID: e.NewNonce()}); err != nil {
		t.Error(err)
	}
}

func cancelX(t *testing.T, e *Engine) {
	if _, err := e.Apply(t.Context(), "x", promise.Cancel{SettleID: e.NewNonce()}); err != nil {
		t.Error(err)
	}
}

// bothWays runs a test over a store that tells of changes and one that does
// not. late is how much later than a change Wait may return.
func bothWays(t *testing.T, test func(t *testing.T, s store.Store, late time.Duration)) {
	t.Run("told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, store.NewMemory(), 0) })
	})
	t.Run("reading", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, &deaf{Store: store.NewMemory()}, lastPoll) })
	})
}

func TestWaitUntilSettled(t *testing.T) {
	bothWays(t, func(t *testing.T, s store.Store, late time.Duration) {
		e := waiting(t, s, time.Hour)
		began := time.Now()
		time.AfterFunc(time.Second, func() { claimX(t, e) })
		time.AfterFunc(time.Minute, func() { cancelX(t, e) })
		rec, err := wait(t.Context(), e, 24*time.Hour)
		if took := time.Since(began); err != nil || rec.State != promise.Canceled || took < time.Minute || took > time.Minute+late {
			t.Errorf("got %s, %v after %s", rec.State, err, took)
		}
	})
}

func TestWaitUntilDeadline(t *testing.T) {
	bothWays(t, func(t *testing.T, s store.Store, _ time.Duration) {
		e := waiting(t, s, 90*time.Second)
		began := time.Now()
		rec, err := wait(t.Context(), e, 24*time.Hour)
		if took := time.Since(began); err != nil || rec.State != promise.TimedOut || took != 90*time.Second {
			t.Errorf("got %s, %v after %s", rec.State, err, took)
		}
		stored, err := e.Store.Get(t.Context(), "x")
		if err != nil || stored.State != promise.TimedOut {
			t.Errorf("stored is %s, %v", stored.State, err)
		}
	})
}

func TestWaitIsOver(t *testing.T) {
	bothWays(t, func(t *testing.T, s store.Store, _ time.Duration) {
		e := waiting(t, s, time.Hour)
		time.AfterFunc(time.Second, func() { claimX(t, e) })
		began := time.Now()
		rec, err := wait(t.Context(), e, 10*time.Second)
		if err != nil || rec.Task.State != promise.TaskAcquired || time.Since(began) != 10*time.Second {
			t.Errorf("got %s, %v after %s", rec.Task.State, err, time.Since(began))
		}
		ctx, end := context.WithTimeout(t.Context(), 10*time.Second)
		defer end()
		if _, err := wait(ctx, e, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its caller is gone: %v", err)
		}
	})
}

func TestWaitAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, s store.Store, _ time.Duration) {
		e := waiting(t, s, time.Hour)
		cancelX(t, e)
		began := time.Now()
		if rec, err := wait(t.Context(), e, 24*time.Hour); err != nil || rec.State != promise.Canceled {
			t.Errorf("settled: got %s, %v", rec.State, err)
		}
		if time.Since(began) != 0 {
			t.Errorf("waited %s", time.Since(began))
		}
	})
}

// Where nobody tells, it is read often at first and then every second.
func TestWaitReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &deaf{Store: store.NewMemory()}
		e := waiting(t, s, time.Hour)
		s.gets.Store(0)
		if _, err := wait(t.Context(), e, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		// At 0, 50, 150, 350, 750, 1550 ms, then every second.
		if n := s.gets.Load(); n < 13 || n > 15 {
			t.Errorf("%d reads in 10 s", n)
		}
	})
}

// A Waiter made before the promise misses nothing that happens to it.
func TestWatchBeforeCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{Store: store.NewMemory(), Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
		w := e.Watch("x")
		defer w.Stop()
		rec, err := e.Create(t.Context(), promise.Record{ID: "x", Machine: "cpu", DeadlineAt: e.Time().Add(time.Hour)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		cancelX(t, e)
		began := time.Now()
		rec, err = w.Wait(t.Context(), rec, time.Hour)
		if err != nil || rec.State != promise.Canceled || time.Since(began) != 0 {
			t.Errorf("got %s, %v after %s", rec.State, err, time.Since(began))
		}
	})
}
