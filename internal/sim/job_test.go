package sim

import (
	"errors"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
)

// job is one attempt, from its claim to what becomes of its outcome.
type job struct {
	*slot
	rec      promise.Record
	held     promise.Time // before the write that granted the lease was sent, by the monotonic clock
	receipt  string
	received promise.Time
	x        *execution
	fate     fate
	made     int // children
}

// fate is what befalls an attempt besides the faults of the ports.
type fate struct {
	crash, freeze, cut, drain promise.Time // when; 0: never
	frozen                    time.Duration
	machine                   bool // the freeze stops the script too
}

// drawFate draws it, for a script that runs for d.
func (j *job) drawFate(d time.Duration) {
	w := j.w
	if w.opt.doom > 0 && len(w.executions) == 1 {
		j.fate.crash = w.now.Add(w.opt.doom)
	}
	if poison := w.plans[j.rec.ID].poison; poison > 0 {
		j.fate.crash = w.now.Add(poison)
		return
	}
	during := func() promise.Time { return w.now.Add(w.upTo(d + time.Second)) }
	share := 1 / float64(j.d.slots) // a crash takes every slot with it
	switch {
	case w.fault("crash", 0.10*share):
		if w.chance(0.5) {
			j.fate.crash = during()
		} else {
			j.p.ops = 1 + w.rng.IntN(8)
		}
	case w.fault("freeze", 0.08*share):
		j.fate.freeze, j.fate.frozen, j.fate.machine = during(), time.Second+w.upTo(90*time.Second), w.chance(0.5)
	case w.fault("cut_off", 0.04*share):
		j.fate.cut = during()
	case w.fault("drain", 0.03*share):
		j.fate.drain = during()
	}
}

// run is the attempt.
func (j *job) run() {
	w := j.w
	p := w.plans[j.rec.ID]
	j.x = w.begin(j.rec, j.receipt, j.held.Add(j.rec.Task.Lease))
	defer func() { j.x.running = false }()
	if w.opt.mutant.is(deleteFirst) {
		j.drop(j.receipt)
	}
	j.drawFate(p.runs)
	end := w.now.Add(p.runs)
	for w.now < end {
		if !j.live(&end, p) {
			return
		}
	}
	j.settle(p)
}

// live lets time pass to whatever comes next. It reports whether the script is
// still of use.
func (j *job) live(end *promise.Time, p *plan) bool {
	w := j.w
	lease := j.rec.Task.Lease
	fence := j.held.Add(lease - margin(lease))
	next := min(*end, j.held.Add(lease/3), fence)
	child := *end
	if j.made < p.children {
		child = end.Add(-p.runs * time.Duration(p.children-j.made) / time.Duration(p.children+1))
		next = min(next, child)
	}
	for _, at := range []promise.Time{j.fate.crash, j.fate.freeze, j.fate.cut, j.fate.drain} {
		if at > 0 {
			next = min(next, at)
		}
	}
	j.a.until(next)
	j.befall(end)
	switch {
	case w.now >= *end && (w.now < fence || *end < fence):
		return true // it ended in time, whatever happened since
	case w.now >= fence && !w.opt.mutant.is(clockDecides):
		w.faults["fenced"]++
		return false // killed; the message comes back by itself
	case j.fate.drain != 0 && w.now >= j.fate.drain:
		j.release()
		return false
	case w.now >= child:
		j.submitChild(p)
	}
	if w.now >= j.held.Add(lease/3) {
		return j.prolong(fence)
	}
	return true
}

// befall does what has been drawn for this time.
func (j *job) befall(end *promise.Time) {
	w, f := j.w, &j.fate
	switch {
	case f.crash != 0 && w.now >= f.crash:
		j.x.running = false
		j.p.kill(j.a)
	case f.freeze != 0 && w.now >= f.freeze:
		f.freeze, j.p.trouble = 0, w.now
		j.p.frozen = w.now.Add(f.frozen)
		if f.machine {
			*end = end.Add(f.frozen)
		}
		j.a.until(w.now)
	case f.cut != 0 && w.now >= f.cut:
		f.cut, j.p.trouble = 0, w.now
		j.p.cut = w.now.Add(5*time.Second + w.upTo(80*time.Second))
	}
}

// extend extends the lease.
func (j *job) extend() error {
	sent := j.w.now
	rec, err := j.e.Step(ctx, j.rec, promise.Extend{Version: j.rec.Task.Version, ClaimID: j.rec.Task.ClaimID})
	if j.w.opt.mutant.is(clockDecides) && errors.Is(err, promise.ErrVersion) {
		err = nil // its clock says that the lease goes on
	}
	if err == nil {
		j.held = sent
		if rec.Task.ClaimID == j.rec.Task.ClaimID {
			j.rec = rec
		}
		if j.x != nil {
			j.x.proven = sent.Add(rec.Task.Lease)
		}
	}
	return err
}

// prolong extends the lease until there is an answer or the fence is near, and
// sees to the message. It reports whether the script is still of use.
func (j *job) prolong(fence promise.Time) bool {
	err := j.again(fence.Sub(j.w.now), j.extend)
	switch {
	case err == nil:
		if j.w.now.Sub(j.received) >= rollover {
			j.w.faults["rolled_over"]++
			j.drop(j.receipt)
			j.receipt = ""
		} else if j.receipt != "" {
			j.hide(j.receipt, j.rec.Task.Lease+promise.Skew)
		}
		return true
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrNotFound):
		j.w.faults["told_of_an_end"]++
		j.w.stop(j)
		j.drop(j.receipt)
		return false
	case known(err):
		j.w.faults["told_of_a_loss"]++
		return false
	}
	return true // not known; the fence is near
}

// release gives the task back.
func (j *job) release() {
	j.x.running = false
	left := j.held.Add(j.rec.Task.Lease).Sub(j.w.now)
	err := j.again(left, func() error {
		_, err := j.e.Step(ctx, j.rec, promise.Release{Version: j.rec.Task.Version, ClaimID: j.rec.Task.ClaimID, Cause: promise.CauseDrained})
		return err
	})
	if err == nil {
		j.hide(j.receipt, 0)
	}
}

// submitChild submits the next child, as the script does through its socket.
func (j *job) submitChild(p *plan) {
	j.made++
	id := promise.ChildID(p.id, j.made)
	if j.w.plans[id] == nil {
		child := j.w.drawPlan(id)
		child.parent, child.children = p.id, 0
		j.w.plans[id] = &child
	}
	parent := &engine.Parent{ID: p.id, Version: j.rec.Task.Version, Claim: j.rec.Task.ClaimID}
	err := j.again(5*time.Second, func() error { return j.w.submit(j.w.plans[id], parent) })
	if err == nil || errors.Is(err, promise.ErrExists) {
		j.w.plans[id].accepted = true
	}
}

// settle reports the outcome until the answer is known: in time while the
// lease lasts, late after it. What is not answered by then goes to the spool.
func (j *job) settle(p *plan) {
	w := j.w
	j.x.running = false
	cause := p.cause
	if w.chance(0.01) && !w.opt.calm {
		cause = promise.CauseBadHost
		w.faults["bad_host"]++
	}
	ev := promise.Fulfil{
		Version: j.rec.Task.Version, ClaimID: j.rec.Task.ClaimID, SettleID: j.e.NewNonce(),
		Outcome: promise.Outcome{Cause: cause, Usage: promise.Usage{MaxRSS: int64(j.x.number)}},
	}
	w.note("execution %d of %s ends: %s", j.x.number, j.x.id, cause)
	over := j.held.Add(j.rec.Task.Lease)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		late := w.now >= over
		err := j.report(ev, late)
		if known(err) {
			if err == nil && late {
				w.faults["settled_late"]++
			}
			if err == nil || errors.Is(err, promise.ErrSettled) || errors.Is(err, promise.ErrNotFound) {
				j.drop(j.receipt)
			}
			j.d.forget(kept{j.rec.ID, promise.LateSettle(ev)})
			return
		}
		if !j.d.keeps(j.rec.ID) {
			j.d.spool = append(j.d.spool, kept{j.rec.ID, promise.LateSettle(ev)})
		}
		if late {
			return
		}
		j.a.sleep(wait/2 + w.upTo(wait/2))
	}
}

// report is one try to settle.
func (j *job) report(ev promise.Fulfil, late bool) (err error) {
	if done, err := j.reportWrongly(ev); done {
		return err
	}
	if late {
		_, err = j.e.Step(ctx, j.rec, promise.LateSettle(ev))
	} else {
		_, err = j.e.Step(ctx, j.rec, ev)
	}
	return err
}
