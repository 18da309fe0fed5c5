package sim

import (
	"errors"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// A mutant is a history whose program is broken in one way. Each must be
// noticed: they are the test of the checker.
type mutant uint8

const (
	healthy          mutant = iota
	noFence                 // a settle is accepted under any version
	overwritesSettle        // a settle is written whatever is stored
	noSweep                 // nobody sweeps
	sendFirst               // the message is sent before the promise is stored
	deleteFirst             // the message is deleted before the promise is settled
	noNonce                 // every nonce is the same
	indexDecides            // what the index says is due is taken for lost
	clockDecides            // whose clock says that its lease goes on may settle

	// Of what other programs execute; some of those above are of that, too.
	forgetsAwaiter // of those whom an end resumes one is not written
	resumesForEver // an end does not forget whom it has resumed
	oneByOne       // what is written together is written one after the other
	suspendsFirst  // a task is suspended first, and then the callbacks registered
	suspendsAnew   // a suspension that was refused is decided anew, without the callbacks
	resumesWhoever // also a task that is held is given to another when it is resumed
)

func (m mutant) is(other mutant) bool { return m == other }

// reportWrongly settles as the mutants do. done: it is one of those.
func (j *job) reportWrongly(ev promise.Fulfil) (done bool, err error) {
	switch j.w.opt.mutant {
	case clockDecides:
		if j.e.Time() >= j.held.Add(j.p.skew+j.rec.Task.Lease) {
			return true, promise.ErrVersion
		}
		fallthrough
	case noFence:
		rec, err := j.e.Get(ctx, j.rec.ID)
		if err != nil {
			return true, err
		}
		ev.Version, ev.ClaimID = rec.Task.Version, rec.Task.ClaimID
		_, err = j.e.Step(ctx, rec, promise.LateSettle(ev))
		return true, err
	case overwritesSettle:
		rec, err := j.e.Store.Get(ctx, j.rec.ID)
		if err != nil {
			return true, err
		}
		next := rec
		next.Rev++
		next.State, next.Outcome, next.SettleID = promise.Resolved, ev.Outcome, ev.SettleID
		next.Outcome.Version = ev.Version
		next.SettledAt = min(j.e.Time(), rec.DeadlineAt)
		next.Task.State, next.Task.LeaseEnd, next.Cascade, next.DueAt, next.ResendAt = promise.TaskFulfilled, 0, false, 0, 0
		if err := j.e.Store.Replace(ctx, next); !errors.Is(err, store.ErrRefused) {
			return true, err
		}
		return true, errLost
	}
	return false, nil
}

// mutate is a write as the mutants make it, and what it goes over.
func (m mutant) mutate(was []promise.Record, writes []store.Write) (over []promise.Record, out []store.Write) {
	if m < forgetsAwaiter {
		return was, writes
	}
	for n, write := range writes {
		rec := write.Record
		told := rec.Protocol != nil && was[n].ID != "" && len(was[n].Protocol.Callbacks) > 0 && rec.State.Terminal()
		resumed := rec.Protocol != nil && was[n].ID != "" && len(rec.Protocol.Resumes) > len(was[n].Protocol.Resumes)
		switch {
		case m.is(forgetsAwaiter) && resumed && n == len(writes)-1:
			continue
		case m.is(resumesForEver) && told:
			p := *rec.Protocol
			p.Callbacks = was[n].Protocol.Callbacks
			rec.Protocol = &p
			rec.DueAt = promise.Due(rec)
		case m.is(resumesWhoever) && resumed && rec.Task.State == promise.TaskAcquired:
			rec.Task.State, rec.ResendAt = promise.TaskPending, rec.Task.LeaseEnd
			rec.DueAt = min(rec.DueAt, promise.Due(rec))
		}
		over, out = append(over, was[n]), append(out, store.Write{Record: rec, Check: write.Check})
	}
	return over, out
}

// suspend suspends a task as the mutants do.
func (w *world) suspend(e *engine.Engine, id string, ev promise.Suspend) (promise.Record, error) {
	switch w.opt.mutant {
	case suspendsFirst:
		rec, err := e.Apply(ctx, id, ev)
		for _, awaited := range ev.Awaits {
			if err == nil {
				_, err = e.Apply(ctx, awaited, promise.Await{Awaiter: id})
			}
		}
		return rec, err
	case suspendsAnew:
		rec, err := e.Get(ctx, id)
		if err != nil {
			return rec, err
		}
		if _, _, verdict := promise.Step(rec, ev, e.Time()); verdict != nil {
			w.actor().sleep(time.Second) // so that it is seen more often
			return e.Step(ctx, rec, ev)
		}
	}
	return e.Suspend(ctx, id, ev)
}

// create creates a workflow's piece as the mutants do.
func (w *world) create(e *engine.Engine, f engine.Fence, rec promise.Record) (promise.Record, error) {
	if w.opt.mutant.is(noFence) {
		return e.Create(ctx, rec, nil)
	}
	return e.FencedCreate(ctx, f, rec)
}

// complete completes a workflow as the mutants do.
func (w *world) complete(e *engine.Engine, id string, ev promise.Complete) (promise.Record, error) {
	if w.opt.mutant.is(overwritesSettle) {
		rec, err := e.Get(ctx, id)
		if err != nil {
			return rec, err
		}
		ev.Version = rec.Task.Version
	}
	return e.Apply(ctx, id, ev)
}
