package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// trouble is what is known of a port's health. It says once that the port does
// not answer, and once that it does again.
type trouble struct {
	what string
	log  *slog.Logger
	down atomic.Bool

	mu    sync.Mutex
	since time.Time
	err   error // the latest
}

func (t *trouble) good() {
	if !t.down.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down.CompareAndSwap(true, false) {
		t.log.Info(t.what+" answers again", "after_ms", time.Since(t.since).Milliseconds())
	}
}

func (t *trouble) bad(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	if t.down.CompareAndSwap(false, true) {
		t.since = time.Now()
		t.log.Warn(t.what+" does not answer; trying again until it does", "error", err)
	}
}

// why says that the port does not answer; "": it does.
func (t *trouble) why() string {
	if !t.down.Load() {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%s has not answered for %s: %v", t.what, time.Since(t.since).Round(time.Second), t.err)
}

// heard takes note of what a port said. An error that is an answer is no
// trouble, nor is one after the end of ctx.
func (t *trouble) heard(ctx context.Context, err error) {
	switch {
	case known(err):
		t.good()
	case ctx.Err() == nil:
		t.bad(err)
	}
}

// call asks a port once, for at most limit.
func (t *trouble) call(ctx context.Context, limit time.Duration, op func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := op(bounded)
	t.heard(ctx, err)
	return err
}

// patience says how long one try may take, and for how long after the first
// vain one an operation is tried again.
type patience struct{ try, all time.Duration }

// again asks a port until it answers, until patience is over, or for ctx's end.
// Its error is the last one.
func (t *trouble) again(ctx context.Context, p patience, op func(context.Context) error) error {
	var b backoff
	var until time.Time
	for {
		err := t.call(ctx, p.try, op)
		if known(err) {
			return err
		}
		if b.tries == 0 {
			until = time.Now().Add(p.all)
		}
		wait := b.next()
		if time.Now().Add(wait).After(until) || !pause(ctx, wait) {
			return err
		}
	}
}

// answers are the errors that are answers: asking again would bring the same.
var answers = [...]error{
	promise.ErrSettled, promise.ErrVersion, promise.ErrLeased, promise.ErrNotYet,
	promise.ErrNotFound, promise.ErrState, blob.ErrNotFound, blob.ErrMismatch,
	queue.ErrReceipt,
}

// known reports whether err, nil too, is an answer.
func known(err error) bool {
	if err == nil {
		return true
	}
	for _, a := range answers {
		if errors.Is(err, a) {
			return true
		}
	}
	return false
}

// backoff spaces the tries of one operation: 50 ms, doubling to 5 s, a random
// half of it.
type backoff struct{ tries int }

func (b *backoff) next() time.Duration {
	d := min(50*time.Millisecond<<min(b.tries, 10), 5*time.Second)
	b.tries++
	return d/2 + rand.N(d/2)
}

// pause reports whether d passed before ctx's end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
