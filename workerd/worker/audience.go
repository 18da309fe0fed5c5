package worker

import (
	"context"
	"sync"
	"time"

	"modulate/internal/promise"
)

// lookTime is for one answer: what is there to ship waits for it.
const lookTime = 2 * time.Second

// An audience knows whether somebody follows a job's output. Both its streams
// ask it, and it asks the store as seldom as it can: no more than once in
// followedWait, and not while a note holds.
type audience struct {
	ask func(ctx context.Context) (until promise.Time, err error)
	now func() promise.Time

	mu    sync.Mutex
	until promise.Time
	asked time.Time
}

// follows reports whether somebody does. Where the store does not say, nobody.
func (a *audience) follows(ctx context.Context) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now() < a.until {
		return true
	}
	if !a.asked.IsZero() && time.Since(a.asked) < followedWait*9/10 { // of the other stream
		return false
	}
	a.asked = time.Now()
	if until, err := a.ask(ctx); err == nil {
		a.until = until
	}
	return a.now() < a.until
}

// listen returns the audience of j. nil: what is shipped costs nothing.
func (j *job) listen() *audience {
	if j.w.cfg.Audience == nil {
		return nil
	}
	return &audience{now: j.w.engine.Time, ask: func(ctx context.Context) (until promise.Time, err error) {
		err = j.w.store.call(ctx, lookTime, func(ctx context.Context) error {
			until, err = j.w.cfg.Audience.Followed(ctx, j.id)
			return err
		})
		return until, err
	}}
}
