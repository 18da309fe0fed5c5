package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

// A guard keeps a job's lease and watches over its promise while the script
// runs. It begins a moment after the script: one that has ended by then needs
// none, and pays for none.
type guard struct {
	timer *time.Timer
	done  chan struct{}

	mu     sync.Mutex
	over   bool
	cancel context.CancelFunc
}

// guardAfter is that moment. A cancel of a younger script is noticed then.
const guardAfter = 50 * time.Millisecond

// glance is how often a guard looks at both clocks: the monotonic one stands
// still while the machine is suspended, and with it every timer.
func glance(lease time.Duration) time.Duration { return min(lease/15, time.Second) }

// margin is how long before the end of a lease its script is killed.
func margin(lease time.Duration) time.Duration {
	return min(max(lease/10, 200*time.Millisecond), 2*time.Second)
}

// startGuard begins to watch over j.
func (j *job) startGuard() {
	wait := j.nextIn()
	if _, ok := j.w.engine.Store.(store.Watcher); ok {
		wait = min(wait, guardAfter)
	}
	j.guard.done = make(chan struct{})
	j.guard.timer = time.AfterFunc(wait, j.keepLease)
}

// stopGuard returns when j.rec and j.held are j's own again.
func (j *job) stopGuard() {
	g := &j.guard
	if g.timer.Stop() {
		return
	}
	g.mu.Lock()
	g.over = true
	if g.cancel != nil {
		g.cancel()
	}
	g.mu.Unlock()
	<-g.done
}

// begin returns the context of the guard's calls, nil if it is over already.
func (g *guard) begin(base context.Context) (ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil
	}
	ctx, g.cancel = context.WithCancel(base)
	return ctx
}

// keepLease is the guard's goroutine.
func (j *job) keepLease() {
	defer close(j.guard.done)
	ctx := j.guard.begin(j.base)
	if ctx == nil {
		return
	}
	defer j.guard.cancel()
	fence := time.AfterFunc(time.Until(j.fenceAt()), func() { j.stop(fenced) })
	defer fence.Stop()
	watch := j.w.engine.Watch(j.id)
	defer watch.Stop()
	if watch.Changed() != nil {
		j.look(ctx) // it may have changed since the claim
	}
	next := time.NewTimer(j.nextIn())
	defer next.Stop()
	var b backoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch.Changed():
			j.look(ctx)
		case <-next.C:
			switch {
			case !j.due():
			case j.prolong(ctx, fence):
				b = backoff{}
			default:
				if j.leaseLeft() <= margin(j.rec.Task.Lease) {
					j.stop(fenced) // by the wall clock, if the fence has not
				}
				next.Reset(min(b.next(), j.rec.Task.Lease/15)) // the lease is ending
				continue
			}
			next.Reset(j.nextIn())
		}
		if j.reason() >= settled {
			return
		}
	}
}

// fenceAt is when the script must die unless the lease is extended by then.
func (j *job) fenceAt() time.Time {
	lease := j.rec.Task.Lease
	return j.held.Add(lease - margin(lease))
}

// leaseMoved tells the script's runner until when it may run.
func (j *job) leaseMoved() {
	left := j.leaseLeft() - margin(j.rec.Task.Lease)
	j.lease.Extend(runner.Boottime() + max(left, 1))
}

// leaseLeft is how long the lease lasts by the clock that says less: the
// monotonic one, or the wall clock, by which others take it for over.
func (j *job) leaseLeft() time.Duration {
	return min(
		time.Until(j.held.Add(j.rec.Task.Lease)),
		j.rec.Task.LeaseEnd.Sub(j.w.engine.Time()),
	)
}

// dueIn is the time to what the guard does next: extend, find out that the
// deadline has passed, or let go of the message.
func (j *job) dueIn() time.Duration {
	if j.unsure {
		return 0
	}
	in := min(
		j.leaseLeft()-j.rec.Task.Lease*2/3,
		j.rec.DeadlineAt.Sub(j.w.engine.Time()),
	)
	if j.receipt != "" {
		in = min(in, time.Until(j.received.Add(rollover)))
	}
	return in
}

// due reports whether it is to be done now.
func (j *job) due() bool { return j.dueIn() <= 0 }

// nextIn is the time until the guard looks again whether it is.
func (j *job) nextIn() time.Duration {
	return max(0, min(j.dueIn(), glance(j.rec.Task.Lease)))
}

// look reads the promise, to find out at once that it was cancelled or taken.
// Not to know is no harm: the next extension tells.
func (j *job) look(ctx context.Context) {
	var rec promise.Record
	err := j.w.store.call(ctx, j.rec.Task.Lease/6, func(ctx context.Context) (err error) {
		rec, err = j.w.engine.Get(ctx, j.id)
		return err
	})
	switch {
	case err != nil:
		j.judgeLoss(err)
	case rec.State.Terminal():
		j.stop(settled)
	case !j.holds(rec):
		j.stop(lost)
	}
}

// prolong extends the lease and puts off the fence, then sees to the message.
// It reports whether the lease was extended.
func (j *job) prolong(ctx context.Context, fence *time.Timer) bool {
	sent := time.Now()
	rec, err := j.w.extend(ctx, *j.rec)
	j.rec = &rec
	if err != nil {
		if !known(err) {
			j.w.tally.unanswered()
		}
		j.judgeLoss(err)
		return false
	}
	j.w.tally.extends(time.Until(j.fenceAt())) // of the lease before
	j.held, j.unsure = sent, false
	j.leaseMoved()
	fence.Reset(time.Until(j.fenceAt()))
	bounded, cancel := context.WithTimeout(ctx, rec.Task.Lease/6)
	defer cancel()
	switch {
	case j.receipt == "":
	case time.Since(j.received) >= rollover:
		// The queue would show the message at 12 h whatever we say. From here
		// on the lease and the sweep are the alarm clock.
		j.w.remove(bounded, j.receipt)
		j.receipt = ""
	default:
		j.w.hide(bounded, j.receipt, min(rec.Task.Lease+promise.Skew, queue.MaxVisibility))
	}
	return true
}

// judgeLoss stops the script if err says that the task is lost. Contention and
// answers that did not come say nothing.
func (j *job) judgeLoss(err error) {
	switch {
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrNotFound):
		j.stop(settled)
	case errors.Is(err, promise.ErrVersion), errors.Is(err, promise.ErrState):
		j.stop(lost)
	}
}
