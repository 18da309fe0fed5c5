package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// ctx is never cancelled: here processes die instead.
var ctx = context.Background()

// What a worker does about messages that it does not work on, and how long
// before its end a lease is given up; as in package worker.
const (
	keptHide    = 5 * time.Second
	unknownHide = 30 * time.Second
	unknownAge  = 10 * time.Minute
	maxMeetings = 3
	rollover    = 11 * time.Hour
	usualLease  = 30 * time.Second
)

func margin(lease time.Duration) time.Duration {
	return min(max(lease/10, 200*time.Millisecond), 2*time.Second)
}

// daemon is a worker's host: it starts the worker again whenever it has died.
// The spool is on its disk.
type daemon struct {
	w     *world
	name  string
	slots int
	lives int
	spool []kept

	program bool // it is another program, and executes by the protocol
}

// kept is an outcome that waits for the store.
type kept struct {
	id  string
	end promise.LateSettle
}

// start starts the worker.
func (d *daemon) start() {
	d.lives++
	p := d.w.newProcess(fmt.Sprint(d.name, "/", d.lives))
	p.died = func() {
		after := time.Second + d.w.upTo(20*time.Second)
		d.w.start(d.name+" restart", nil, func(a *actor) {
			a.sleep(after)
			d.start()
		})
	}
	for i := range d.slots {
		s := &slot{w: d.w, d: d, p: p, e: p.engine()}
		s.a = d.w.start(fmt.Sprint(p.name, "#", i), p, func(*actor) {
			for {
				s.receive()
			}
		})
	}
	keeper := &slot{w: d.w, d: d, p: p, e: p.engine()}
	keeper.a = d.w.start(p.name+" spool", p, func(*actor) {
		for {
			keeper.settleKept()
			keeper.a.sleep(5 * time.Second)
		}
	})
}

// slot is where a worker runs one script at a time.
type slot struct {
	w *world
	d *daemon
	p *process
	a *actor
	e *engine.Engine
}

// known reports whether err, nil too, is an answer.
func known(err error) bool {
	if err == nil {
		return true
	}
	for _, answer := range []error{
		promise.ErrSettled, promise.ErrVersion, promise.ErrLeased, promise.ErrNotYet, promise.ErrNotFound, promise.ErrState, promise.ErrExists, promise.ErrParent,
	} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// again asks until there is an answer or patience is over.
func (s *slot) again(patience time.Duration, ask func() error) error {
	over := s.w.now.Add(patience)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := ask()
		if known(err) || s.w.now.Add(wait) > over {
			return err
		}
		s.a.sleep(wait/2 + s.w.upTo(wait/2))
	}
}

// receive is one turn of the worker's loop.
func (s *slot) receive() {
	hide := usualLease + promise.Skew
	if s.d.program {
		hide = takeTime
	}
	got, err := s.e.Queue.Receive(ctx, "cpu", 1, hide, queue.MaxWait)
	if err != nil {
		s.a.sleep(time.Second)
	}
	for _, d := range got {
		if s.d.program {
			s.deliver(d)
		} else {
			s.handle(d)
		}
	}
}

// handle is the life of one delivery.
func (s *slot) handle(d queue.Delivery) {
	m, err := queue.Decode(d.Body)
	if err != nil {
		s.w.breaks("%s: %v", d.Body, err)
		return
	}
	if s.d.keeps(m.ID) {
		s.hide(d.Receipt, keptHide)
		return
	}
	ev := promise.Claim{Worker: s.p.name, ClaimID: s.e.NewNonce()}
	j := &job{slot: s, receipt: d.Receipt, received: s.w.now, held: s.w.now}
	err = s.again(usualLease, func() (err error) {
		j.rec, err = s.e.Apply(ctx, m.ID, ev)
		return err
	})
	if err == nil && s.w.now.Sub(j.held) > j.rec.Task.Lease/3 {
		err = j.extend()
	}
	if err != nil {
		s.judge(d, j.rec, err)
		return
	}
	if j.rec.Task.Lease != usualLease {
		s.hide(d.Receipt, j.rec.Task.Lease+promise.Skew)
	}
	j.run()
}

// judge decides what becomes of a message whose promise could not be claimed.
func (s *slot) judge(d queue.Delivery, rec promise.Record, err error) {
	now := s.e.Time()
	switch {
	case errors.Is(err, promise.ErrNotFound):
		s.w.faults["message_without_promise"]++
		if now.Sub(d.SentAt) > unknownAge {
			s.drop(d.Receipt)
		} else {
			s.hide(d.Receipt, unknownHide)
		}
	case errors.Is(err, promise.ErrLeased):
		s.w.faults["met_a_live_lease"]++
		if d.Receives-int(rec.Task.Version)-int(rec.Drains) >= maxMeetings {
			s.drop(d.Receipt)
		} else {
			s.hide(d.Receipt, rec.Task.LeaseEnd.Add(promise.Skew).Sub(now))
		}
	case errors.Is(err, promise.ErrNotYet):
		s.hide(d.Receipt, rec.NotBefore.Sub(now))
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrState):
		s.drop(d.Receipt)
	}
}

// hide and drop are advice to the queue; nothing is concluded from its answer.
func (s *slot) hide(receipt string, d time.Duration) {
	_ = s.e.Queue.Extend(ctx, "cpu", receipt, min(max(d, 0), queue.MaxVisibility))
}

func (s *slot) drop(receipt string) { _ = s.e.Queue.Delete(ctx, "cpu", receipt) }

// settleKept tries once to settle each outcome in the spool.
func (s *slot) settleKept() {
	for _, o := range append([]kept(nil), s.d.spool...) {
		_, err := s.e.Apply(ctx, o.id, o.end)
		if !known(err) {
			continue
		}
		if err == nil {
			s.w.faults["settled_late"]++
		}
		s.d.forget(o)
	}
}

func (d *daemon) keeps(id string) bool {
	for _, o := range d.spool {
		if o.id == id {
			return true
		}
	}
	return false
}

func (d *daemon) forget(done kept) {
	var left []kept
	for _, o := range d.spool {
		if o.end.SettleID != done.end.SettleID {
			left = append(left, o)
		}
	}
	d.spool = left
}
