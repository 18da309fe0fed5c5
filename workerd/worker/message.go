package worker

import (
	"context"
	"errors"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
)

// What a worker does about messages that it does not work on.
const (
	newerHide   = time.Minute      // of a newer version: for a newer worker
	unknownHide = 30 * time.Second // its promise is not there yet
	unknownAge  = 10 * time.Minute // nor ever will be, after so long
	maxMeetings = 3                // with a live lease
)

// handle is the life of one delivery.
func (w *Worker) handle(base context.Context, a arrival) {
	d := a.Delivery
	m, err := queue.Decode(d.Body)
	if err != nil {
		w.follow(base, d, judge(d, promise.Record{}, err, w.engine.Time()))
		return
	}
	if w.spool.has(m.ID) { // a new attempt would make its outcome worthless
		return // by the time that it is back, the outcome may be settled
	}
	j, rec, err := w.claim(base, m.ID)
	if err != nil {
		w.follow(base, d, judge(d, rec, err, w.engine.Time()))
		return
	}
	j.receipt, j.received, j.devices = d.Receipt, a.at, a.devices
	w.tally.claims(d, w.engine.Time())
	if lease := rec.Task.Lease; lease != w.cfg.Lease {
		w.hide(base, d.Receipt, min(lease+promise.Skew, queue.MaxVisibility))
	}
	j.run()
}

// verdict is what becomes of a message: it is deleted, buried, or visible
// again after hide. With leave it is not touched at all.
type verdict struct {
	leave, remove, bury bool
	hide                time.Duration
}

// judge decides what becomes of a message whose promise could not be claimed,
// or that could not be read. rec is the record that refused the claim.
func judge(d queue.Delivery, rec promise.Record, err error, now promise.Time) verdict {
	hideUntil := func(t promise.Time) verdict {
		return verdict{hide: min(max(0, t.Sub(now)), rollover)} // SQS refuses what goes beyond 12 h since the receive
	}
	switch {
	case errors.Is(err, queue.ErrGarbage):
		return verdict{bury: true}
	case errors.Is(err, queue.ErrNewer):
		return verdict{hide: newerHide}
	case errors.Is(err, promise.ErrNotFound):
		if now.Sub(d.SentAt) > unknownAge {
			return verdict{remove: true}
		}
		return verdict{hide: unknownHide}
	case errors.Is(err, promise.ErrLeased):
		if d.Receives-int(rec.Task.Version)-int(rec.Drains) >= maxMeetings {
			return verdict{remove: true} // the sweep is this promise's alarm clock
		}
		return hideUntil(rec.Task.LeaseEnd.Add(promise.Skew))
	case errors.Is(err, promise.ErrNotYet):
		return hideUntil(rec.NotBefore)
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrState):
		return verdict{remove: true} // nobody is to run it, or whoever resumes it sends again
	default:
		return verdict{leave: true} // not known; it comes back when its time is over
	}
}

// follow does what the verdict says.
func (w *Worker) follow(base context.Context, d queue.Delivery, v verdict) {
	switch {
	case v.leave:
	case v.bury:
		w.bury(base, d)
	case v.remove:
		w.remove(base, d.Receipt)
	default:
		w.hide(base, d.Receipt, v.hide)
	}
}

// hide makes a message visible again after d, remove deletes it, bury puts it
// among the dead letters. What the queue says is advice: nothing is ever
// concluded from it.
func (w *Worker) hide(base context.Context, receipt string, d time.Duration) {
	ctx, cancel := context.WithTimeout(base, callTime)
	defer cancel()
	w.queue.heard(base, w.engine.Queue.Extend(ctx, w.cfg.Machine, receipt, d))
}

func (w *Worker) remove(base context.Context, receipt string) {
	ctx, cancel := context.WithTimeout(base, callTime)
	defer cancel()
	w.queue.heard(base, w.engine.Queue.Delete(ctx, w.cfg.Machine, receipt))
}

func (w *Worker) bury(base context.Context, d queue.Delivery) {
	w.log.Warn("a message is not one of ours; it is among the dead letters now", "machine", w.cfg.Machine, "bytes", len(d.Body))
	ctx, cancel := context.WithTimeout(base, callTime)
	defer cancel()
	w.queue.heard(base, w.engine.Queue.Bury(ctx, w.cfg.Machine, d))
}
