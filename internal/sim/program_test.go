package sim

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// What delivery does with messages, as in package delivery.
const (
	takeTime   = 10 * time.Second
	leaseSlack = 500 * time.Millisecond
)

// deliver has a slot of a program do with one message what its task asks for.
func (s *slot) deliver(d queue.Delivery) {
	m, err := queue.Decode(d.Body)
	if err != nil {
		s.w.breaks("%s: %v", d.Body, err)
		return
	}
	rec, err := s.e.Apply(ctx, m.ID, promise.Tick{})
	now := s.e.Time()
	switch {
	case errors.Is(err, promise.ErrNotFound):
		s.drop(d.Receipt)
	case err != nil:
	case rec.Task.State == promise.TaskAcquired:
		s.hide(d.Receipt, rec.Task.LeaseEnd.Sub(now)+leaseSlack)
	case rec.Task.State != promise.TaskPending:
		s.drop(d.Receipt)
	case rec.NotBefore > now:
		s.hide(d.Receipt, rec.NotBefore.Sub(now))
	default:
		(&turn{slot: s, receipt: d.Receipt, rec: rec}).take()
	}
}

// turn is one worker's time with a task, from when it takes it until it lets it
// go.
type turn struct {
	*slot
	rec     promise.Record
	receipt string
	f       *flow
	x       *execution
	beaten  promise.Time // when the lease was extended
	fate    fate
}

// call asks a router, again until there is an answer or patience is over.
func (t *turn) call(do func(e *engine.Engine) (promise.Record, error)) (rec promise.Record, err error) {
	over := t.w.now.Add(time.Minute)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		rec, err = t.w.ask(do)
		if answered(err) || t.w.now.Add(wait) > over {
			return rec, err
		}
		t.a.sleep(wait/2 + t.w.upTo(wait/2))
	}
}

// take takes the task, and has its workflow go on.
func (t *turn) take() {
	w, id := t.w, t.rec.ID
	t.f = w.flows[id]
	if t.f == nil { // of a schedule
		t.f = &flow{id: id, ttl: 20 * time.Second}
		w.flows[id] = t.f
	}
	ev := promise.Acquire{Version: t.rec.Task.Version, Worker: t.p.name, Lease: t.f.ttl}
	rec, err := t.call(func(e *engine.Engine) (promise.Record, error) { return e.Apply(ctx, id, ev) })
	if err != nil {
		return // another has it, or it is not known: it comes back
	}
	t.rec, t.beaten = rec, w.now
	t.hide(t.receipt, t.f.ttl+leaseSlack)
	t.x = &execution{number: len(w.executions) + 1, id: id, version: rec.Task.Version, began: w.now}
	w.executions = append(w.executions, t.x)
	w.byReceipt[t.receipt] = t.x
	w.note("turn %d of %s v%d begins", t.x.number, id, t.x.version)
	t.drawFate()
	if t.goOn() {
		t.drop(t.receipt)
	}
}

// drawFate draws what befalls the worker besides the faults of the ports.
func (t *turn) drawFate() {
	w := t.w
	share := 1 / float64(t.d.slots)
	switch {
	case w.fault("crash", 0.06*share):
		t.p.ops = 1 + w.rng.IntN(30)
	case w.fault("freeze", 0.06*share):
		t.fate.freeze, t.fate.frozen = w.now.Add(w.upTo(10*time.Second)), time.Second+w.upTo(90*time.Second)
	case w.fault("drain", 0.03*share):
		t.fate.drain = w.now.Add(w.upTo(10 * time.Second))
	}
}

// goOn does the workflow from its beginning. It reports whether the task is let
// go of, so that the message has done its work.
func (t *turn) goOn() bool {
	for i := 0; i < len(t.f.steps); {
		step := t.f.steps[i]
		t.works(step.works)
		if t.fate.drain != 0 && t.w.now >= t.fate.drain {
			return t.release()
		}
		pending, err := t.create(step)
		if err != nil {
			return false
		}
		if len(pending) == 0 {
			i++
			continue
		}
		t.works(step.after)
		switch err := t.suspend(pending); {
		case err == nil:
			return true
		case !errors.Is(err, promise.ErrReady):
			return false
		}
	}
	t.works(t.f.works)
	return t.complete()
}

// works lets time pass, and extends the lease. Whether it is still the worker's
// nobody says.
func (t *turn) works(d time.Duration) {
	w := t.w
	for end := w.now.Add(d); ; {
		next := min(end, t.beaten.Add(t.f.ttl/3))
		t.a.until(max(next, w.now))
		if t.fate.freeze != 0 && w.now >= t.fate.freeze {
			t.fate.freeze = 0
			t.p.frozen = w.now.Add(t.fate.frozen)
			t.a.until(w.now)
		}
		if w.now >= t.beaten.Add(t.f.ttl/3) {
			sent := w.now
			ev := promise.Heartbeat{Version: t.x.version, Worker: t.p.name}
			_, _ = t.call(func(e *engine.Engine) (promise.Record, error) { return e.Apply(ctx, t.f.id, ev) })
			t.beaten = sent
		}
		if w.now >= end {
			return
		}
	}
}

func (t *turn) fence() engine.Fence { return engine.Fence{Task: t.f.id, Version: t.x.version} }

// create creates what a step awaits, settles what is the workflow's own, and
// returns what is pending.
func (t *turn) create(step stage) (pending []string, err error) {
	by := fmt.Sprint(t.f.id, " ", t.x.version)
	for _, p := range step.pieces {
		rec, err := t.call(func(e *engine.Engine) (promise.Record, error) {
			return t.w.create(e, t.fence(), p.record(e.Time(), by))
		})
		if err != nil && !errors.Is(err, promise.ErrExists) {
			return nil, err
		}
		if p.kind == local && !rec.State.Terminal() {
			ev := promise.Settle{State: promise.Resolved, SettleID: t.w.nonce()}
			rec, err = t.call(func(e *engine.Engine) (promise.Record, error) {
				return e.FencedSettle(ctx, t.fence(), p.id, ev)
			})
			if err != nil && (!errors.Is(err, promise.ErrSettled) || errors.Is(err, engine.ErrFence)) {
				return nil, err
			}
		}
		if rec.State.Terminal() {
			continue
		}
		pending = append(pending, p.id)
		if t.w.chance(0.2) { // some register for each what they await, before they suspend
			ev := promise.Await{Awaiter: t.f.id}
			_, _ = t.call(func(e *engine.Engine) (promise.Record, error) { return e.Apply(ctx, p.id, ev) })
		}
	}
	return pending, nil
}

func (t *turn) suspend(awaits []string) error {
	ev := promise.Suspend{Version: t.x.version, Awaits: awaits}
	if t.w.opt.mutant.is(deleteFirst) {
		t.drop(t.receipt)
	}
	t.w.asked[t.f.id] = append(t.w.asked[t.f.id], awaits)
	_, err := t.call(func(e *engine.Engine) (promise.Record, error) { return t.w.suspend(e, t.f.id, ev) })
	return err
}

func (t *turn) release() bool {
	ev := promise.Release{Version: t.x.version}
	_, err := t.call(func(e *engine.Engine) (promise.Record, error) {
		t.w.released[t.f.id] = t.x.version
		return e.Apply(ctx, t.f.id, ev)
	})
	return err == nil
}

// complete ends the workflow, whose pieces have all ended.
func (t *turn) complete() bool {
	for _, s := range t.f.steps {
		for _, p := range s.pieces {
			if !t.w.records[p.id].State.Terminal() {
				t.w.breaks("%s comes to its end, and %s has not ended", t.f.id, p.id)
			}
		}
	}
	ev := promise.Complete{Version: t.x.version, State: promise.Resolved, Value: promise.Value{Data: strconv.Itoa(t.x.number)}}
	_, err := t.call(func(e *engine.Engine) (promise.Record, error) { return t.w.complete(e, t.f.id, ev) })
	return err == nil || errors.Is(err, promise.ErrSettled)
}
