package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
)

// retention is how long a message lives that nobody deletes.
const retention = 14 * 24 * time.Hour

// queueOf is the one queue there is. It delivers in any order, more than once,
// and reports whoever misuses it.
type queueOf struct {
	w        *world
	messages []*message
	sent     int
	waiting  []*actor // receivers with nothing to receive
}

type message struct {
	number   int
	body     []byte
	receives int
	sentAt   promise.Time
	visible  promise.Time
}

func (q *queueOf) put(body []byte, delay time.Duration) {
	q.sent++
	q.messages = append(q.messages, &message{number: q.sent, body: body, sentAt: q.w.now, visible: q.w.now.Add(delay)})
	q.wake()
}

// wake lets the receivers look again.
func (q *queueOf) wake() {
	for _, a := range q.waiting {
		a.wake()
	}
	q.waiting = nil
}

// take receives one visible message, at random.
func (q *queueOf) take(hide time.Duration) (d queue.Delivery, ok bool) {
	w := q.w
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool {
		old := w.now.Sub(m.sentAt) > retention
		if old {
			w.faults["message_expired"]++
		}
		return old
	})
	var visible []*message
	for _, m := range q.messages {
		if m.visible <= w.now {
			visible = append(visible, m)
		}
	}
	if len(visible) == 0 {
		return d, false
	}
	m := visible[w.rng.IntN(len(visible))]
	m.receives++
	switch {
	case w.opt.once:
		q.messages = slices.DeleteFunc(q.messages, func(other *message) bool { return other == m })
	case !w.fault("delivered_twice", 0.05):
		m.visible = w.now.Add(hide)
	}
	return queue.Delivery{
		Body: m.body, Receipt: fmt.Sprintf("%d.%d", m.number, m.receives), Receives: m.receives, SentAt: m.sentAt,
	}, true
}

// next is when the next hidden message becomes visible, at most limit.
func (q *queueOf) next(limit promise.Time) promise.Time {
	for _, m := range q.messages {
		if m.visible > q.w.now {
			limit = min(limit, m.visible)
		}
	}
	return limit
}

// find returns the message of a receipt, nil when it is gone or was received
// again since.
func (q *queueOf) find(receipt string) *message {
	number, receives, _ := strings.Cut(receipt, ".")
	for _, m := range q.messages {
		if strconv.Itoa(m.number) == number && strconv.Itoa(m.receives) == receives {
			return m
		}
	}
	return nil
}

// queueAt is the queue as one process reaches it.
type queueAt struct{ p *process }

var _ queue.Queue = queueAt{}

// call is a call of the queue whose answer may get lost, before or after.
func (a queueAt) call(name string, do func()) error {
	w := a.p.w
	a.p.travel(false)
	err := errLost
	if a.p.cut <= w.now && !w.fault(name+"_failed", 0.04) {
		do()
		if !w.fault(name+"_unanswered", 0.04) {
			err = nil
		}
	}
	w.note("%s %s: %v", a.p.name, name, err)
	a.p.travel(true)
	return err
}

// Send implements [queue.Queue].
func (a queueAt) Send(_ context.Context, _ string, body []byte, delay time.Duration) error {
	w := a.p.w
	return a.call("send", func() {
		m, err := queue.Decode(body)
		if _, there := w.records[m.ID]; err != nil || !there {
			w.breaks("a message is sent for %q, which is not stored", m.ID)
		}
		switch {
		case w.fault("message_lost", 0.03):
		case w.fault("message_doubled", 0.05):
			w.queue.put(body, delay)
			w.queue.put(body, delay+w.upTo(time.Minute))
		case w.fault("message_delayed", 0.03):
			w.queue.put(body, delay+w.upTo(5*time.Minute))
		default:
			w.queue.put(body, delay)
		}
	})
}

// Receive implements [queue.Queue] for one message at a time.
func (a queueAt) Receive(_ context.Context, _ string, _ int, hide, wait time.Duration) (got []queue.Delivery, err error) {
	w := a.p.w
	me := w.actor()
	over := w.now.Add(wait)
	for {
		if a.p.cut > w.now || w.fault("receive_failed", 0.02) {
			me.sleep(time.Second)
			return nil, errLost
		}
		if d, ok := w.queue.take(hide); ok {
			w.note("%s receive %s %s", a.p.name, d.Body, d.Receipt)
			if w.fault("receive_lost", 0.03) { // on the way; it stays hidden
				return nil, errLost
			}
			a.p.travel(true)
			return []queue.Delivery{d}, nil
		}
		if w.now >= over {
			return nil, nil
		}
		w.queue.waiting = append(w.queue.waiting, me)
		me.until(w.queue.next(over))
		w.queue.waiting = slices.DeleteFunc(w.queue.waiting, func(other *actor) bool { return other == me })
	}
}

// Extend implements [queue.Queue].
func (a queueAt) Extend(_ context.Context, _, receipt string, hide time.Duration) error {
	w := a.p.w
	return a.call("hide", func() {
		if m := w.queue.find(receipt); m != nil && m.visible > w.now {
			m.visible = w.now.Add(hide)
			w.queue.wake()
		}
	})
}

// Delete implements [queue.Queue]. Whoever deletes the message of an attempt
// that it still holds has thrown away its alarm clock.
func (a queueAt) Delete(_ context.Context, _, receipt string) error {
	w := a.p.w
	return a.call("delete", func() {
		if e := w.byReceipt[receipt]; e != nil && w.now.Sub(e.began) < rollover-time.Hour {
			rec := w.records[e.id]
			if rec.State == promise.Pending && rec.Task.State == promise.TaskAcquired && rec.Task.ClaimID == e.claim && rec.Task.Version == e.version {
				w.breaks("the message of %s is deleted by the worker that holds it, before it is settled", e.id)
			}
		}
		if m := w.queue.find(receipt); m != nil {
			w.queue.messages = slices.DeleteFunc(w.queue.messages, func(other *message) bool { return other == m })
		}
	})
}

// Bury implements [queue.Queue]; there is no garbage here.
func (a queueAt) Bury(context.Context, string, queue.Delivery) error {
	a.p.w.breaks("a message is buried")
	return nil
}

// Depth implements [queue.Queue].
func (a queueAt) Depth(context.Context, string) (queue.Depth, error) {
	return queue.Depth{}, errors.New("not in this simulation")
}

// Machines implements [queue.Queue].
func (a queueAt) Machines(context.Context) ([]string, error) { return []string{"cpu"}, nil }
