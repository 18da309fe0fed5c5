package worker

import (
	"errors"
	"sync"
	"time"

	"modulate/internal/promise"
)

var errLeaving = errors.New("the machine is to go away")

// A departure is what is known of the machine's end.
type departure struct {
	mu      sync.Mutex
	cause   promise.Cause // what tasks are given back for
	by      time.Time     // everything must be given back; zero: it is not known
	changed chan struct{} // closed, and replaced, when more is known

	told chan struct{} // closed when it is known at all
	once sync.Once
}

// Leave is for a notice that this machine goes away: Run stops receiving and
// drains, as when its ctx is cancelled, and tasks are given back for that
// cause, spot or drained. Where by is not zero they are all given back by then,
// even if Config.Drain would let their scripts go on. A later notice counts
// where it leaves less time.
func (w *Worker) Leave(cause promise.Cause, by time.Time) { w.away.hear(cause, by) }

func (d *departure) hear(cause promise.Cause, by time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by.IsZero() || !by.IsZero() && by.Before(d.by) {
		d.cause, d.by = cause, by
	}
	close(d.changed)
	d.changed = make(chan struct{})
	d.once.Do(func() { close(d.told) })
}

// look returns what is known, and what is closed when more is.
func (d *departure) look() (promise.Cause, time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cause, d.by, d.changed
}

// linger returns when all jobs are done, which it reports, when their time is
// over, or when the worker is aborted. Their time is Config.Drain, or what a
// notice leaves of it: by its end their scripts must have had their grace, and
// the store have answered.
func (w *Worker) linger(done <-chan struct{}) bool {
	over := time.Now().Add(w.cfg.Drain)
	for {
		_, by, more := w.away.look()
		if !by.IsZero() && by.Add(-grace-settleTime).Before(over) {
			over = by.Add(-grace - settleTime)
		}
		timer := time.NewTimer(time.Until(over))
		select {
		case <-done:
			timer.Stop()
			return true
		case <-timer.C:
			return false
		case <-w.aborted:
			timer.Stop()
			return false
		case <-more:
			timer.Stop()
		}
	}
}
