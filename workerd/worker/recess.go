package worker

import (
	"context"
	"sync"
	"time"

	"modulate/internal/promise"
)

// A recess keeps a host that cannot run scripts from eating its queue: after
// each that it could not run nothing is received for a second, doubling to a
// minute, until one has run.
type recess struct {
	mu    sync.Mutex
	tries int
	until time.Time
}

const (
	firstRecess   = time.Second
	longestRecess = time.Minute
)

// heard takes note of how an attempt ended. Those that were received together
// count once.
func (r *recess) heard(cause promise.Cause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case cause != promise.CauseBadHost:
		r.tries = 0
	case !now.Before(r.until):
		r.until = now.Add(min(firstRecess<<min(r.tries, 10), longestRecess))
		r.tries++
	}
}

// wait returns when the recess is over, or at ctx's end.
func (r *recess) wait(ctx context.Context) {
	if d := r.left(); d > 0 {
		pause(ctx, d)
	}
}

// left is how much of the recess is to come; none where it is not positive.
func (r *recess) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.until)
}
