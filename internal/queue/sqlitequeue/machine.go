package sqlitequeue

import (
	"slices"
	"time"

	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// maxReady is how many messages of a machine are kept ready in memory. What
// comes on top is found through the file.
const maxReady = 1024

// machine is what this process knows of one machine's queue. Queue.mu guards
// it.
type machine struct {
	ready   []*message // visible and in memory, oldest first
	rows    bool       // there may be visible rows that are not in ready
	waiters []*waiter  // oldest first
	next    int64      // when something hidden may become visible, milliseconds since the Unix epoch; 0: not known of
	timer   *time.Timer
}

// waiter is a Receive.
type waiter struct {
	limit int
	hide  time.Duration
	woken chan []queue.Delivery // capacity 1; empty: look again
}

// drop takes msg off the ready list.
func (m *machine) drop(msg *message) {
	if msg.ready {
		msg.ready = false
		i := slices.Index(m.ready, msg)
		m.ready = slices.Delete(m.ready, i, i+1)
	}
}

// offer hands a visible message to a receiver that waits, or else keeps it
// ready, or leaves it to its row. q.mu is held.
func (q *Queue) offer(m *machine, msg *message, now int64) (handed bool) {
	switch {
	case len(m.waiters) > 0 && len(m.ready) == 0:
		w := m.waiters[0]
		m.waiters = m.waiters[1:]
		w.woken <- []queue.Delivery{q.receive(m, msg, w, now)}
		return true
	case !m.rows && len(m.ready) < maxReady:
		msg.ready = true
		m.ready = append(m.ready, msg)
	default:
		m.rows = true // once it is written, which is before anyone can look
	}
	return false
}

// look takes what is ready in memory. If there is nothing it reports whether
// there may be rows; if not either, and wait is set, w waits from now on.
func (q *Queue) look(m *machine, w *waiter, wait bool) (got []queue.Delivery, rows bool) {
	now := time.Now().UnixMilli()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(m.ready) > 0 && !q.db.Alone() {
		q.share(m)
	}
	for len(m.ready) > 0 && len(got) < w.limit {
		got = append(got, q.receive(m, m.ready[0], w, now))
	}
	if m.next != 0 && m.next <= now {
		m.next, m.rows = 0, true
	}
	if len(got) == 0 && !m.rows && wait {
		m.waiters = append(m.waiters, w)
		q.arm(m)
	}
	return got, m.rows
}

// share gives up what is ready though its row is visible to peers. q.mu is
// held.
func (q *Queue) share(m *machine) {
	for _, msg := range slices.Clone(m.ready) {
		if msg.written && !msg.syncing {
			m.drop(msg)
			delete(q.held, msg.number)
			m.rows = true
		}
	}
}

// leave ends a wait. It returns what was handed over at the last moment.
func (q *Queue) leave(m *machine, w *waiter) []queue.Delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.waiters = slices.DeleteFunc(m.waiters, func(other *waiter) bool { return other == w })
	select {
	case got := <-w.woken:
		if len(got) == 0 {
			m.wake() // it was told to look, and will not
		}
		return got
	default:
		return nil
	}
}

// wake tells the receiver that has waited longest to look. Queue.mu is held.
func (m *machine) wake() {
	if len(m.waiters) > 0 {
		m.waiters[0].woken <- nil
		m.waiters = m.waiters[1:]
	}
}

// wakeAt notes that a row may become visible at that time; if that is now, a
// receiver looks. q.mu is held.
func (q *Queue) wakeAt(m *machine, at int64) {
	if at <= time.Now().UnixMilli() {
		m.rows = true
		m.wake()
		return
	}
	if m.next == 0 || at < m.next {
		m.next = at
		q.arm(m)
	}
}

// arm sets the timer for m.next, if anyone waits. q.mu is held.
func (q *Queue) arm(m *machine) {
	if m.next == 0 || len(m.waiters) == 0 {
		return
	}
	wait := time.Until(time.UnixMilli(m.next))
	if m.timer != nil {
		m.timer.Reset(wait)
		return
	}
	m.timer = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if next := m.next; next != 0 {
			m.next = 0
			q.wakeAt(m, next) // again, if it was moved, or the clock was
		}
	})
}

// hear takes the notes of peers.
func (q *Queue) hear(n sqlite.Note, ours bool) {
	if ours {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch n.Kind {
	case sqlite.Machine:
		if m := q.machines[n.Name]; m != nil {
			q.wakeAt(m, n.At)
		}
	case sqlite.Everything:
		for _, m := range q.machines {
			q.wakeAt(m, 0)
		}
	}
}
