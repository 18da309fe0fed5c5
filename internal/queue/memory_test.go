package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/queue"
	"modulate/internal/queue/queuetest"
)

func TestMemory(t *testing.T) {
	queuetest.Run(t, func(*testing.T) queue.Queue { return queue.NewMemory("gpu", "cpu") })
}

// In a bubble a wait of hours costs nothing and ends on the instant.
func TestMemoryKeepsTimeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.NewMemory("cpu")
		start := time.Now()
		receive := func(hide time.Duration, want int, after time.Duration) queue.Delivery {
			t.Helper()
			got, err := q.Receive(t.Context(), "cpu", 1, hide, queue.MaxWait)
			if err != nil || len(got) != 1 {
				t.Fatalf("%d messages, %v", len(got), err)
			}
			if passed := time.Since(start); passed != after || got[0].Receives != want {
				t.Fatalf("receive %d after %v, want %d after %v", got[0].Receives, passed, want, after)
			}
			return got[0]
		}
		if err := q.Send(t.Context(), "cpu", []byte("a"), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		receive(7*time.Second, 1, 5*time.Second)
		d := receive(queue.MaxVisibility, 2, 12*time.Second)
		if got, err := q.Receive(t.Context(), "cpu", 1, 0, queue.MaxWait); err != nil || len(got) != 0 {
			t.Fatalf("received what is hidden: %v, %v", got, err)
		}
		if err := q.Extend(t.Context(), "cpu", d.Receipt, time.Second); err != nil {
			t.Fatal(err)
		}
		receive(0, 3, 12*time.Second+queue.MaxWait+time.Second)
	})
}

func TestMemoryTellsStaleReceipts(t *testing.T) {
	q := queue.NewMemory("cpu")
	if err := q.Send(t.Context(), "cpu", []byte("a"), 0); err != nil {
		t.Fatal(err)
	}
	receive := func(hide time.Duration) queue.Delivery {
		got, err := q.Receive(t.Context(), "cpu", 1, hide, 0)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		return got[0]
	}
	stale, now := receive(0), receive(time.Hour)
	for name, call := range map[string]func(context.Context) error{
		"Extend": func(ctx context.Context) error { return q.Extend(ctx, "cpu", stale.Receipt, 0) },
		"Delete": func(ctx context.Context) error { return q.Delete(ctx, "cpu", stale.Receipt) },
		"Bury":   func(ctx context.Context) error { return q.Bury(ctx, "cpu", stale) },
		"never":  func(ctx context.Context) error { return q.Delete(ctx, "cpu", "7.1") },
	} {
		if err := call(t.Context()); !errors.Is(err, queue.ErrReceipt) {
			t.Errorf("%s: got %v, want ErrReceipt", name, err)
		}
	}
	if err := q.Extend(t.Context(), "cpu", now.Receipt, 0); err != nil {
		t.Errorf("the stale calls touched the message: %v", err)
	}
}
