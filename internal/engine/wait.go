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

// Wait returns the record with that id once its promise is terminal, also when
// it is the deadline that ends it. At ctx's end it returns the latest record
// that it has read, and ctx's error.
func (e *Engine) Wait(ctx context.Context, id string) (promise.Record, error) {
	w := e.Watch(id)
	defer w.Stop()
	rec, err := e.Get(ctx, id)
	if err != nil {
		return rec, err
	}
	return w.Wait(ctx, rec)
}

// A Waiter waits for changes of one promise. What changes after it was made is
// not missed. It is used by one goroutine, and stopped.
type Waiter struct {
	engine  *Engine
	changed <-chan struct{} // nil: the store cannot tell
	stop    func()
}

// Watch returns a Waiter for the promise with that id, which need not exist
// yet.
func (e *Engine) Watch(id string) *Waiter {
	w := &Waiter{engine: e, stop: func() {}}
	if s, ok := e.Store.(store.Watcher); ok {
		w.changed, w.stop = s.Watch(id)
	}
	return w
}

// Stop ends the watch.
func (w *Waiter) Stop() { w.stop() }

// Changed receives after each change; nil where the store cannot tell.
func (w *Waiter) Changed() <-chan struct{} { return w.changed }

// Wait returns the record once it is terminal. rec is the record as it was
// read after, or written by the caller after, the Waiter was made. At ctx's
// end it returns the latest record that it has read, and ctx's error.
func (w *Waiter) Wait(ctx context.Context, rec promise.Record) (promise.Record, error) {
	poll := firstPoll
	for !rec.State.Terminal() {
		if err := w.pause(ctx, rec, poll); err != nil {
			return rec, err
		}
		poll = min(2*poll, lastPoll)
		next, err := w.engine.Get(ctx, rec.ID)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return rec, err
		}
		rec = next
	}
	return rec, nil
}

// pause returns when rec may have changed: it was told so, its deadline has
// come, or, where nobody tells, poll is over.
func (w *Waiter) pause(ctx context.Context, rec promise.Record, poll time.Duration) error {
	until := max(0, rec.DeadlineAt.Sub(w.engine.Time()))
	if w.changed == nil {
		until = min(until, poll)
	}
	timer := time.NewTimer(until)
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
