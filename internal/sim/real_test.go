package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/workerd/worker"
)

// TestRealWorkers lets package worker and package sweep do the work: 4 workers
// of 2 slots and 2 sweepers, machines that die and stop answering, ports that
// fail. Everything is settled once, no script runs twice at a time, and none is
// taken for done that is not.
func TestRealWorkers(t *testing.T) {
	n := few(60)
	faults := map[string]int{}
	begun, promises := 0, 0
	for seed := range n {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(uint64(seed))
			promises += l.play(t)
			begun += l.begun
			for kind, times := range l.faults {
				faults[kind] += times
			}
			for _, b := range l.broken {
				t.Errorf("seed %d: %s", seed, b)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d promises, %.3f executions each, faults: %v", promises, float64(begun)/float64(promises), faults)
	if rate := float64(begun) / float64(promises); n >= 60 && rate > 1.30 {
		t.Errorf("%.3f executions each, more than 1.30", rate)
	}
	for _, kind := range []string{"crash", "freeze", "replace_failed", "replace_unanswered", "replace_doubled", "message_lost", "message_doubled", "receive_lost"} {
		if n >= 60 && faults[kind] < n/2 {
			t.Errorf("%s happened %d times in %d histories", kind, faults[kind], n)
		}
	}
}

// play submits 20 promises and waits for their ends. It returns how many there
// were.
func (l *lab) play(t *testing.T) int {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { l.host(ctx, fmt.Sprint("w", i)) })
	}
	for range 2 {
		wg.Go(func() {
			if err := sweep.New(sweep.Config{Engine: l.newMachine().engine()}).Run(ctx); err != nil {
				l.breaks("sweeping: %v", err)
			}
		})
	}
	const n = 20
	script := promise.Hash{1}
	if err := l.blobs.Put(ctx, blob.ContentKey(script), strings.NewReader("#"), 1, promise.Hash{}); err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() { l.client(ctx, fmt.Sprint("p", i), script) })
	}
	clients.Wait()
	cancel()
	wg.Wait()
	return n
}

// host runs workers one after the other: when its machine dies, another comes.
func (l *lab) host(ctx context.Context, name string) {
	for life := 0; ctx.Err() == nil; life++ {
		m := l.newMachine()
		w, err := worker.New(worker.Config{
			Engine: m.engine(), Machine: "cpu", Slots: 2, Name: fmt.Sprint(name, "/", life),
			Runner: m, Runtimes: map[string][]string{"python": {"python3"}}, Drain: time.Second,
		})
		if err != nil {
			l.breaks("%s: %v", name, err)
			return
		}
		alive, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-m.died:
				w.Abort()
				stop()
			case <-alive.Done():
			}
		}()
		if err := w.Run(alive); err != nil {
			l.breaks("%s: %v", name, err)
		}
		stop()
		restart := time.NewTimer(time.Second + l.upTo(10*time.Second))
		select {
		case <-restart.C:
		case <-ctx.Done():
			restart.Stop()
		}
	}
}

// client submits a promise until there is an answer, and waits for its end.
func (l *lab) client(ctx context.Context, id string, script promise.Hash) {
	time.Sleep(l.upTo(time.Minute))
	e := l.newMachine().engine()
	for pending := true; pending; {
		_, err := e.Create(ctx, promise.Record{
			ID: id, Owner: "local", Machine: "cpu", DeadlineAt: e.Time().Add(24 * time.Hour),
			Call: promise.Call{Name: "foo.py", Script: script, Timeout: time.Hour, Lease: usualLease},
		}, nil)
		pending = err != nil && !errors.Is(err, promise.ErrExists)
		time.Sleep(l.upTo(time.Second))
	}
	want := promise.Resolved
	if l.fault("cancel", 0.1) {
		want = promise.Canceled
		time.Sleep(l.upTo(20 * time.Second))
		for err := errLost; !known(err); _, err = e.Apply(ctx, id, promise.Cancel{SettleID: e.NewNonce()}) {
			time.Sleep(time.Second)
		}
	}
	sure := engine.Engine{Store: l.memory, Queue: l.queue, Blobs: l.blobs}
	watch := sure.WatchEnd(id)
	defer watch.Stop()
	rec, err := sure.Get(ctx, id)
	if err == nil {
		rec, err = watch.Wait(ctx, rec, 25*time.Hour) // its deadline is sooner
	}
	if err != nil || rec.State != promise.Resolved && rec.State != want {
		l.breaks("%s is %s (%s) after %d attempts: %v", id, rec.State, rec.Outcome.Cause, rec.Attempt, err)
	}
	if all, err := sure.Attempts(ctx, rec); err != nil || len(all) != int(rec.Attempt) {
		l.breaks("%s: %d of %d attempts: %v", id, len(all), rec.Attempt, err)
	}
}
