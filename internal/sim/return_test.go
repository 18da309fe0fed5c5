package sim

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// deaf is a queue that is away until it is told, and notes when what is sent.
type deaf struct {
	*queue.Memory
	mu   sync.Mutex
	away bool
	sent map[int64]int // by second
	ids  map[string]bool
}

// Send implements [queue.Queue].
func (q *deaf) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return errLost
	}
	m, err := queue.Decode(body)
	if err != nil {
		return err
	}
	q.sent[time.Now().Unix()]++
	q.ids[m.ID] = true
	return nil // nobody receives here
}

// peak is the most that was sent, or is due, in one second.
func peak(by map[int64]int) (most int) {
	for _, n := range by {
		most = max(most, n)
	}
	return most
}

// TestReturnAfterOutage measures what two sweepers send when a queue that was
// away for three hours is back: 4,000 promises whose messages were lost at once
// come back by 1,000 a sweeper and look at most, all of them within minutes,
// and when they are next due is spread.
func TestReturnAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4000
		q := &deaf{Memory: queue.NewMemory("cpu"), away: true, sent: map[int64]int{}, ids: map[string]bool{}}
		memory := store.NewMemory()
		e := &engine.Engine{Store: memory, Queue: q, Blobs: blob.NewMemory()}
		for i := range n {
			_, err := e.Create(t.Context(), promise.Record{
				ID: fmt.Sprint("p", i), Owner: "local", Machine: "cpu", DeadlineAt: e.Time().Add(24 * time.Hour),
				Call: promise.Call{Name: "foo.py", Timeout: time.Hour, Lease: usualLease},
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Hour)
		q.away = false
		back := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var sweepers sync.WaitGroup
		for range 2 {
			sweepers.Go(func() {
				if err := sweep.New(sweep.Config{Engine: e}).Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		sweepers.Wait()
		if len(q.ids) != n {
			t.Errorf("%d of %d were sent for within %v", len(q.ids), n, time.Since(back))
		}
		most := peak(q.sent)
		if most > 2*1000 {
			t.Errorf("%d messages in one second, want 1,000 a sweeper at most", most)
		}
		due := map[int64]int{}
		for i := range n {
			rec, err := memory.Get(t.Context(), fmt.Sprint("p", i))
			if err != nil {
				t.Fatal(err)
			}
			due[rec.ResendAt.Std().Unix()]++
		}
		t.Logf("a second's peak: %d messages, then %d due", most, peak(due))
		if again := peak(due); again > n/10 {
			t.Errorf("%d are due again in one second", again)
		}
	})
}
