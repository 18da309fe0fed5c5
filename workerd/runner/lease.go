package runner

import (
	"sync"
	"time"
)

// A Lease is until when a job may run. The worker moves it; who enforces it
// watches. Times are those of [Boottime]. The zero value ends nothing.
type Lease struct {
	mu    sync.Mutex
	until time.Duration
	moved func(time.Duration)
}

// Extend moves the end of the lease.
func (l *Lease) Extend(until time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until = until; l.moved != nil {
		l.moved(until)
	}
}

// end is when the lease is over, 0: never. A nil Lease ends never.
func (l *Lease) end() time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

// watch calls moved with the end of the lease whenever it moves, and now if it
// is not what is known already, until it is undone.
func (l *Lease) watch(known time.Duration, moved func(time.Duration)) (undo func()) {
	if l == nil {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.moved = moved; l.until > 0 && l.until != known {
		moved(l.until)
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.moved = nil
	}
}
