package worker

import (
	"context"
	"sync"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// lookTime is for one answer: what is there to ship waits for it.
const lookTime = 2 * time.Second

// An audience knows whether somebody follows a job's output. Both its streams
// ask it, and it asks the store as seldom as it can: once in gap, and not while
// a note holds.
type audience struct {
	gap time.Duration
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
	if !a.asked.IsZero() && time.Since(a.asked) < a.gap*9/10 { // of the other stream
		return false
	}
	a.asked = time.Now()
	if until, err := a.ask(ctx); err == nil {
		a.until = until
	}
	return a.now() < a.until
}

// capture makes s the stream of j with that name, for that audience.
func (j *job) capture(s *stream, name string, heard *audience) {
	s.name, s.half, s.base = name, api.MaxLog/2, j.base
	s.put, s.show = j.putChunk, j.putNewest
	s.audience, s.soon, s.late = heard, chunkWait, j.w.cfg.LogGap
	if s.late > 0 {
		s.soon = billedWait
	}
}

// listen returns the audience of j; nil: there is none.
func (j *job) listen() *audience {
	w := j.w
	if w.cfg.Audience == nil {
		return nil
	}
	a := &audience{gap: chunkWait, now: w.engine.Time}
	if w.cfg.LogGap > 0 {
		a.gap = billedWait
	}
	a.ask = func(ctx context.Context) (until promise.Time, err error) {
		err = w.store.call(ctx, lookTime, func(ctx context.Context) error {
			until, err = w.cfg.Audience.Followed(ctx, j.id)
			return err
		})
		return until, err
	}
	return a
}
