package worker

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

// idle is a runner that returns at once.
type idle struct{}

func (idle) Run(context.Context, runner.Job) runner.Result { return runner.Result{} }

// BenchmarkNoOp is what the worker itself costs a promise: everything between
// create and the waiter's answer, over ports in memory, 64 waiting at once.
func BenchmarkNoOp(b *testing.B) {
	e := &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	w, err := New(Config{
		Engine: e, Machine: "cpu", Slots: 64, Name: "w1", Runner: idle{},
		Runtimes: map[string][]string{"python": nil}, API: http.NotFoundHandler(),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer stop()

	deadline := e.Time().Add(time.Hour)
	call := promise.Call{Name: "x.py", Script: promise.Hash{1}, Timeout: time.Minute, Lease: 30 * time.Second}
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				id := "p" + strconv.FormatInt(n, 10)
				watch := e.Watch(id)
				rec, err := e.Create(ctx, promise.Record{ID: id, Machine: "cpu", DeadlineAt: deadline, Call: call}, nil)
				if err == nil {
					rec, err = watch.Wait(ctx, rec, time.Minute)
				}
				watch.Stop()
				if err != nil || rec.State != promise.Resolved {
					b.Errorf("%s: %s, %v", id, rec.State, err)
				}
			}
		})
	}
	callers.Wait()
}
