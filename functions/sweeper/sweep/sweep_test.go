package sweep

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// world is an engine over memory ports that can be made to fail.
type world struct {
	*engine.Engine
	t     *testing.T
	store *faulty
}

// faulty is a memory store whose Get fails for some ids and whose Children
// fails altogether while told to.
type faulty struct {
	*store.Memory
	broken     map[string]bool
	childless  atomic.Bool
	dueQueries atomic.Int32
}

var errBroken = errors.New("broken for the test")

func (f *faulty) Get(ctx context.Context, id string) (promise.Record, error) {
	if f.broken[id] {
		return promise.Record{}, errBroken
	}
	return f.Memory.Get(ctx, id)
}

func (f *faulty) Children(ctx context.Context, id, after string, limit int) ([]promise.Record, error) {
	if f.childless.Load() {
		return nil, errBroken
	}
	return f.Memory.Children(ctx, id, after, limit)
}

func (f *faulty) Due(ctx context.Context, now promise.Time, limit int) ([]string, error) {
	f.dueQueries.Add(1)
	return f.Memory.Due(ctx, now, limit)
}

func newWorld(t *testing.T) *world {
	f := &faulty{Memory: store.NewMemory(), broken: map[string]bool{}}
	return &world{t: t, store: f, Engine: &engine.Engine{
		Store: f, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory(),
	}}
}

// create makes a promise of an hour and takes its message away.
func (w *world) create(id string) { w.createFor(id, time.Hour) }

func (w *world) createFor(id string, deadline time.Duration) {
	w.t.Helper()
	_, err := w.Create(w.t.Context(), promise.Record{
		ID: id, Owner: "local", Machine: "cpu", DeadlineAt: w.Time().Add(deadline),
		Call: promise.Call{Name: "x.py", Timeout: time.Minute, Lease: 10 * time.Second},
	}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.messages()
}

// messages takes every visible message, and returns how many there were of
// each promise.
func (w *world) messages() map[string]int {
	w.t.Helper()
	found := map[string]int{}
	for {
		got, err := w.Queue.Receive(w.t.Context(), "cpu", queue.MaxReceive, time.Hour, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(got) == 0 {
			return found
		}
		for _, d := range got {
			m, err := queue.Decode(d.Body)
			if err != nil {
				w.t.Fatal(err)
			}
			found[m.ID]++
			if err := w.Queue.Delete(w.t.Context(), "cpu", d.Receipt); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *world) get(id string) promise.Record {
	w.t.Helper()
	rec, err := w.store.Memory.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// run runs n sweepers for d.
func (w *world) run(n int, d time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	done := make(chan error)
	for range n {
		go func() { done <- New(Config{Engine: w.Engine}).Run(ctx) }()
	}
	for range n {
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

func TestLostMessageIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("a")
		w.run(1, 59*time.Second)
		if got := w.messages(); len(got) != 0 {
			t.Fatalf("sent before it was due: %v", got)
		}
		w.run(1, promise.FirstResend-59*time.Second+Look)
		if got := w.messages(); got["a"] != 1 {
			t.Fatalf("messages %v, want one for a", got)
		}
	})
}

func TestDeadLeaseIsEndedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("a")
		w.run(1, 7*time.Second) // the sweeper is in the middle of its rhythm
		if _, err := w.Apply(t.Context(), "a", promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}}); err != nil {
			t.Fatal(err)
		}
		lease := w.get("a").Task.Lease
		w.run(1, lease+15*time.Second)
		if rec := w.get("a"); rec.Task.State != promise.TaskPending || rec.Crashes != 1 {
			t.Errorf("task %s, %d crashes after the lease + 15 s", rec.Task.State, rec.Crashes)
		}
		if got := w.messages(); got["a"] != 1 {
			t.Errorf("messages %v, want one for a", got)
		}
	})
}

func TestDeadlineSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("a")
		w.run(1, time.Hour+2*time.Minute)
		if rec := w.get("a"); rec.State != promise.TimedOut || rec.DueAt != 0 {
			t.Errorf("state %s, due %d; want it timed out and never due", rec.State, rec.DueAt)
		}
	})
}

func TestCascadeIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("a")
		w.create("a.1")
		w.create("a.1.1")
		w.store.childless.Store(true) // the canceller is stopped half-way
		if _, err := w.Apply(t.Context(), "a", promise.Cancel{SettleID: promise.Nonce{1}}); err != nil {
			t.Fatal(err)
		}
		if w.get("a.1").State.Terminal() {
			t.Fatal("the child was cancelled although its parent's children could not be read")
		}
		w.store.childless.Store(false)
		w.run(2, 2*Look)
		for _, id := range []string{"a", "a.1", "a.1.1"} {
			if rec := w.get(id); rec.State != promise.Canceled || rec.DueAt != 0 {
				t.Errorf("%s: state %s, due %d; want it cancelled and never due", id, rec.State, rec.DueAt)
			}
		}
	})
}

func TestErrorsStopNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range page + 10 { // more than are read at once, and first in the index
			id := fmt.Sprintf("a%03d", i)
			w.create(id)
			w.store.broken[id] = true
		}
		w.create("z")
		time.Sleep(promise.FirstResend)
		ctx, cancel := context.WithTimeout(t.Context(), Look/2)
		defer cancel()
		if err := New(Config{Engine: w.Engine}).Pass(ctx); !errors.Is(err, errBroken) {
			t.Errorf("error %v, want that of the items", err)
		}
		if got := w.messages(); len(got) != 1 || got["z"] != 1 {
			t.Errorf("messages %v, want one for z", got)
		}
	})
}

func TestTwoAtOnceSendOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 50 {
			w.create(fmt.Sprint("p", i))
		}
		w.run(2, promise.FirstResend+2*Look)
		got := w.messages()
		for i := range 50 {
			if id := fmt.Sprint("p", i); got[id] != 1 {
				t.Errorf("%d messages for %s, want 1", got[id], id)
			}
		}
	})
}

func TestResendsComeBitByBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range maxResends + 500 {
			w.create(fmt.Sprint("p", i))
		}
		w.create("leased")
		if _, err := w.Apply(t.Context(), "leased", promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // no sweeper was there
		w.run(1, Look/2)
		if got := w.messages(); len(got) != maxResends && len(got) != maxResends+1 {
			t.Errorf("%d messages at once, want %d", len(got), maxResends)
		}
		if rec := w.get("leased"); rec.Crashes != 1 {
			t.Error("the dead lease waited behind the messages")
		}
		w.run(1, time.Minute+2*Look)
		if got := w.messages(); len(got) < 500 {
			t.Errorf("%d messages in the next minute, want the other 500", len(got))
		}
	})
}

// What became due behind a backlog of messages to be sent again, by time, is
// repaired in the first look all the same.
func TestNothingStarvesBehindResends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const backlog = 7000
		for i := range backlog {
			w.create(fmt.Sprint("p", i))
		}
		time.Sleep(2 * time.Minute) // no sweeper was there
		w.create("leased")
		if _, err := w.Apply(t.Context(), "leased", promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}}); err != nil {
			t.Fatal(err)
		}
		w.createFor("late", time.Second)
		time.Sleep(time.Minute)
		w.run(1, Look/2)
		if rec := w.get("leased"); rec.Crashes != 1 {
			t.Error("the dead lease waited behind the messages")
		}
		if rec := w.get("late"); rec.State != promise.TimedOut {
			t.Errorf("the deadline waited behind the messages: %s", rec.State)
		}
		sent := w.messages()
		if sent["leased"] != 1 || len(sent) != maxResends+1 {
			t.Errorf("%d messages in one look, of them %d for leased; want %d and that one", len(sent), sent["leased"], maxResends)
		}
		for looks := 0; looks < 25 && len(sent) < backlog+1; looks++ { // put off twice at most: 2 minutes
			w.run(1, Look/2)
			got := w.messages()
			if len(got) > maxResends {
				t.Fatalf("%d messages in one look, want %d at most", len(got), maxResends)
			}
			for id := range got {
				sent[id]++
			}
			time.Sleep(Look / 2)
		}
		if len(sent) != backlog+1 {
			t.Errorf("messages for %d promises, want %d", len(sent), backlog+1)
		}
	})
}

func TestIdleAsksTheIndexAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(1, 10*time.Minute)
		if n := w.store.dueQueries.Load(); n > int32(10*time.Minute/(Look-Look/10))+1 {
			t.Errorf("%d queries in 10 idle minutes", n)
		}
	})
}

func TestPassEndsAtOnceUnlessSomethingIsComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := New(Config{Engine: w.Engine})
		start := time.Now()
		if err := s.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("with nothing due it stayed %v", d)
		}
		w.create("a") // due in a minute
		if err := s.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.messages(); got["a"] != 1 {
			t.Errorf("messages %v, want one for a", got)
		}
		if d := time.Since(start); d > Stay {
			t.Errorf("stayed %v, more than %v", d, Stay)
		}
	})
}
