package sim

import (
	"errors"

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
