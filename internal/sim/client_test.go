package sim

import (
	"errors"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// routerDied is what a request panics with whose router dies under it. The
// client sees a connection that was cut.
type routerDied struct{}

// router returns an engine as a router has it, which dies at some points.
func (w *world) router() *engine.Engine {
	p := w.newProcess("router")
	p.fail = func(point string) {
		if point == engine.PointWritten && w.fault("router_death", 0.05) || point != engine.PointWritten && w.fault("router_death_later", 0.02) {
			panic(routerDied{})
		}
	}
	return p.engine()
}

// request does one request to a router.
func (w *world) request(do func(e *engine.Engine) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, died := r.(routerDied); !died {
				panic(r)
			}
			err = errLost
		}
	}()
	err = do(w.router())
	if w.fault("answer_lost", 0.03) {
		return errLost
	}
	return err
}

// submit is POST /v1/promises.
func (w *world) submit(p *plan, parent *engine.Parent) error {
	return w.request(func(e *engine.Engine) error {
		rec := promise.Record{
			ID: p.id, Owner: "local", Machine: "cpu", Parent: p.parent, CallHash: promise.Hash{1},
			DeadlineAt: e.Time().Add(24 * time.Hour),
			Call:       promise.Call{Name: "foo.py", Timeout: time.Hour, Lease: p.lease, Retry: p.retry},
		}
		switch {
		case p.short:
			rec.DeadlineAt = e.Time().Add(4 * time.Minute)
		case w.opt.days > 0:
			rec.DeadlineAt = e.Time().Add(30 * day)
		}
		if w.opt.mutant.is(sendFirst) {
			_ = e.Queue.Send(ctx, rec.Machine, queue.Encode(rec.ID, 0), 0)
		}
		_, err := e.Create(ctx, rec, parent)
		return err
	})
}

// drawPlan draws what a submission is and what its script will do.
func (w *world) drawPlan(id string) plan {
	if w.opt.script != nil {
		p := w.opt.script(w)
		p.id = id
		return p
	}
	p := plan{id: id, cause: promise.CauseOK, lease: usualLease}
	switch {
	case w.chance(0.7):
		p.runs = 50*time.Millisecond + w.upTo(10*time.Second)
	case w.chance(0.8):
		p.runs = w.upTo(time.Minute)
	default:
		p.runs = w.upTo(5 * time.Minute)
	}
	switch {
	case w.chance(0.1):
		p.cause = promise.CauseExit
		p.retry = promise.Retry{
			Policy: promise.Policy(w.rng.IntN(4)), MaxAttempts: uint32(1 + w.rng.IntN(4)),
			Delay: w.upTo(20*time.Second) + 1, MaxDelay: time.Minute,
		}
	case w.chance(0.05): // so often that attempts leave the record
		p.cause, p.runs = promise.CauseSignal, time.Second
		p.retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 12, Delay: time.Second, MaxDelay: time.Second}
	}
	if w.chance(0.1) {
		p.lease = 10*time.Second + w.upTo(2*time.Minute)
	}
	if w.chance(0.1) {
		p.children = 1 + w.rng.IntN(3)
	}
	switch {
	case w.chance(0.08):
		p.short = true
	case w.chance(0.08):
		p.canceled = true
	case w.chance(0.02):
		p.settles = true
	}
	return p
}

// startClient makes somebody who submits id and waits for its end.
func (w *world) startClient(id string) {
	w.open++
	p := w.drawPlan(id)
	w.plans[id] = &p
	begin := w.upTo(5 * time.Minute)
	w.start("client of "+id, nil, func(a *actor) {
		a.sleep(begin)
		w.insist(a, func() error { return w.submit(&p, nil) })
		p.accepted = true
		if p.canceled {
			a.sleep(w.upTo(30 * time.Second))
			nonce := w.nonce()
			w.insist(a, func() error {
				return w.request(func(e *engine.Engine) error {
					_, err := e.Apply(ctx, id, promise.Cancel{SettleID: nonce})
					return err
				})
			})
		}
		if p.settles {
			a.sleep(w.upTo(30 * time.Second))
			ev := promise.Settle{State: promise.Rejected, SettleID: w.nonce(), Outcome: promise.Outcome{Cause: promise.CauseExit}}
			w.insist(a, func() error {
				return w.request(func(e *engine.Engine) error {
					_, err := e.Apply(ctx, id, ev)
					return err
				})
			})
		}
		w.await(a, id)
		w.open--
	})
}

// insist asks until there is an answer.
func (w *world) insist(a *actor, ask func() error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := ask()
		if known(err) {
			if errors.Is(err, promise.ErrExists) {
				w.faults["submitted_again"]++
			}
			return
		}
		a.sleep(wait/2 + w.upTo(wait/2))
	}
}

// await reads until the promise is settled, and once more much later.
func (w *world) await(a *actor, id string) {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		var rec promise.Record
		err := w.request(func(e *engine.Engine) (err error) {
			rec, err = e.Get(ctx, id)
			return err
		})
		if err == nil && rec.State.Terminal() {
			w.tell(rec)
			if _, again := w.told[id+" again"]; again || !w.chance(0.3) {
				return
			}
			w.told[id+" again"] = rec
			wait = time.Minute
		}
		if w.opt.days > 0 {
			wait = time.Hour
		}
		a.sleep(wait/2 + w.upTo(wait/2))
	}
}

// startSweeper makes a sweeper that looks every 5 s, or every minute where a
// history takes days, and is started again whenever it has died.
func (w *world) startSweeper(name string) {
	p := w.newProcess(name)
	p.died = func() {
		w.start(name+" restart", nil, func(a *actor) {
			a.sleep(w.upTo(30*time.Second) + 1)
			w.startSweeper(name)
		})
	}
	e := p.engine()
	beat := 5 * time.Second
	if w.opt.days > 0 {
		beat = time.Minute
	}
	w.start(name, p, func(a *actor) {
		for {
			a.sleep(beat - w.upTo(beat/10))
			ids, err := e.Store.Due(ctx, e.Time(), 256)
			if err != nil {
				continue
			}
			w.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			if len(ids) > 0 && w.fault("sweeper_death", 0.02) {
				p.ops = 1 + w.rng.IntN(6)
			}
			for _, id := range ids {
				w.sweep(e, id)
			}
		}
	})
}

// sweep lets time pass for one promise.
func (w *world) sweep(e *engine.Engine, id string) {
	rec, err := e.Store.Get(ctx, id)
	if err != nil {
		return
	}
	if w.opt.mutant.is(indexDecides) && rec.Task.State == promise.TaskAcquired {
		rec.Task.LeaseEnd = 1 // it would not be in the index if it were alive
	}
	_, _ = e.Step(ctx, rec, promise.Tick{}) // what fails stays due
}
