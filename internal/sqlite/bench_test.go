package sqlite_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/queue/sqlitequeue"
	"modulate/internal/sqlite"
	"modulate/internal/store/sqlitestore"
)

// plant is what lives run through: a store, a queue and workers that take
// every message at once, claim, settle and delete.
type plant struct {
	store *sqlitestore.Store
	queue *sqlitequeue.Queue
	ids   atomic.Int64
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func newPlant(b *testing.B, workers int) *plant {
	b.Helper()
	db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store.db"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &plant{store: sqlitestore.New(db), queue: sqlitequeue.New(db), stop: stop}
	for range workers {
		p.done.Go(func() { p.work(ctx, b) })
	}
	b.Cleanup(func() {
		stop()
		p.done.Wait()
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return p
}

// work is one worker slot.
func (p *plant) work(ctx context.Context, b *testing.B) {
	for ctx.Err() == nil {
		got, err := p.queue.Receive(ctx, "cpu", 1, 35*time.Second, queue.MaxWait)
		if err != nil && ctx.Err() == nil {
			b.Error(err)
			return
		}
		for _, d := range got {
			if err := p.run(ctx, d); err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		}
	}
}

func (p *plant) run(ctx context.Context, d queue.Delivery) error {
	msg, err := queue.Decode(d.Body)
	if err != nil {
		return err
	}
	rec, err := p.store.Get(ctx, msg.ID)
	if err != nil {
		return err
	}
	claim := nonce()
	if rec, err = p.step(ctx, rec, promise.Claim{Worker: "w1", ClaimID: claim}); err != nil {
		return err
	}
	rec, err = p.step(ctx, rec, promise.Fulfil{
		Version: rec.Task.Version, ClaimID: claim, SettleID: nonce(),
		Outcome: promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 3, Tail: []byte("ok\n")}},
	})
	if err != nil {
		return err
	}
	return p.queue.Delete(ctx, rec.Machine, d.Receipt)
}

func (p *plant) step(ctx context.Context, rec promise.Record, ev promise.Event) (promise.Record, error) {
	next, _, err := promise.Step(rec, ev, promise.TimeOf(time.Now()))
	if err != nil {
		return rec, err
	}
	next.WriteID = nonce()
	return next, p.store.Replace(ctx, next)
}

// live is one life as a submitter sees it: create, send, and wait until it is
// settled.
func (p *plant) live(ctx context.Context) error {
	now := promise.TimeOf(time.Now())
	rec, effects, err := promise.Step(promise.Record{}, promise.Create{Record: promise.Record{
		ID:    fmt.Sprintf("01k9zq7d3m%016d", p.ids.Add(1)),
		Owner: "local", Machine: "cpu", DeadlineAt: now.Add(24 * time.Hour),
		CallHash: promise.Hash(slices.Repeat([]byte{7}, 32)),
		Call: promise.Call{
			Name: "hello.py", Script: promise.Hash(slices.Repeat([]byte{9}, 32)), Runtime: "python",
			Timeout: 2 * time.Minute, Lease: 30 * time.Second, Input: promise.Input{Args: []string{"--size", "10"}},
		},
	}}, now)
	if err != nil {
		return err
	}
	rec.WriteID = nonce()
	changed, stop := p.store.Watch(rec.ID)
	defer stop()
	if err := p.store.Create(ctx, rec); err != nil {
		return err
	}
	send := effects[0].(promise.Send)
	if err := p.queue.Send(ctx, send.Machine, queue.Encode(send.ID, send.Version), 0); err != nil {
		return err
	}
	for {
		<-changed
		if rec, err = p.store.Get(ctx, rec.ID); err != nil || rec.State.Terminal() {
			return err
		}
	}
}

func nonce() (n promise.Nonce) {
	rand.Read(n[:]) // never fails
	return n
}

// cpuTime is what this process has used of its processors.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkLife measures whole lives, three sequential durable commits each,
// by 1 and by 64 callers: per life the time, its median, and the processor
// time of store and queue together.
func BenchmarkLife(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			p := newPlant(b, callers)
			times := make([]time.Duration, b.N)
			var next atomic.Int64
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime()
			for range callers {
				all.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						start := time.Now()
						if err := p.live(context.Background()); err != nil {
							b.Error(err)
							return
						}
						times[i] = time.Since(start)
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			slices.Sort(times)
			b.ReportMetric(float64(times[b.N/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(times[b.N*99/100].Microseconds()), "p99-µs")
		})
	}
}
