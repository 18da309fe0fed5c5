package engine

import (
	"context"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// The intervals at which a promise is read again where the store cannot tell
// of changes: the first, doubling to the last.
const (
	firstPoll = 50 * time.Millisecond
	lastPoll  = time.Second
)

// A Waiter waits for changes of one promise. What changes after it was made is
// not missed. It is used by one goroutine, and stopped.
type Waiter struct {
	engine  *Engine
	changed <-chan struct{} // nil: the store cannot tell
	stop    func()
}

// Watch returns a Waiter for the promise with that id, which need not exist
// yet.
func (e *Engine) Watch(id string) *Waiter { return e.waiter(id, store.Watcher.Watch) }

// WatchEnd is Watch for who only waits for the promise's end.
func (e *Engine) WatchEnd(id string) *Waiter { return e.waiter(id, store.Watcher.WatchEnd) }

func (e *Engine) waiter(id string, watch func(store.Watcher, string) (<-chan struct{}, func())) *Waiter {
	w := &Waiter{engine: e, stop: func() {}}
	if s, ok := e.Store.(store.Watcher); ok {
		w.changed, w.stop = watch(s, id)
	}
	return w
}

// Stop ends the watch.
func (w *Waiter) Stop() { w.stop() }

// Changed receives after each change, or once the promise has ended, as the
// Waiter was made; nil where the store cannot tell.
func (w *Waiter) Changed() <-chan struct{} { return w.changed }

// Wait returns the record once it is terminal, also when it is the deadline
// that ends it, or as it is when within is over. rec is the record as it was
// read after, or written by the caller after, the Waiter was made. With an
// error comes the latest record that was read.
func (w *Waiter) Wait(ctx context.Context, rec promise.Record, within time.Duration) (promise.Record, error) {
	over := time.Now().Add(within)
	poll := firstPoll
	for left := within; !rec.State.Terminal() && left > 0; left = time.Until(over) {
		if err := w.pause(ctx, rec, left, poll); err != nil {
			return rec, err
		}
		poll = min(2*poll, lastPoll)
		next, err := w.engine.Get(ctx, rec.ID)
		if err != nil {
			return rec, err
		}
		rec = next
	}
	return rec, nil
}

// pause returns when rec may have changed: it was told so, its deadline has
// come, or, where nobody tells, poll is over. It returns when left is over in
// any case.
func (w *Waiter) pause(ctx context.Context, rec promise.Record, left, poll time.Duration) error {
	left = min(left, max(0, rec.DeadlineAt.Sub(w.engine.Time())))
	if w.changed == nil {
		left = min(left, poll)
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-w.changed:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Time returns the engine's time.
func (e *Engine) Time() promise.Time { return e.now() }

// NewNonce returns a nonce of the engine's.
func (e *Engine) NewNonce() promise.Nonce { return e.nonce() }
