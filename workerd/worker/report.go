package worker

import (
	"maps"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/workerd/device"
	"modulate/workerd/runner"
)

// A Report is how a worker is doing, for those who watch over it.
type Report struct {
	Slots    int
	Running  int                      // attempts, at this moment
	Attempts map[promise.Cause]uint64 // that have ended, by cause
	Kept     int                      // outcomes that wait for the store
	Received uint64                   // messages
	Claimed  uint64                   // tasks
	Extended uint64                   // leases
	Unproven uint64                   // extensions of a lease that got no answer

	QueueWait    Histogram // seconds, from a message's sending, by the queue's clock, to its claim; of those received once
	StartLatency Histogram // seconds, from a message's arrival to the start of its script
	LeaseMargin  Histogram // seconds that a lease had left before its script would have been killed, when it was extended

	// LastReceive is when the queue last answered, with a message or without
	// one; zero: it never has. It does not answer while every slot is in use:
	// nobody asks.
	LastReceive time.Time

	Devices device.Report
	Pool    runner.PoolReport // zero: its runner starts nothing ahead

	// Troubles says why the worker does not do its work; empty: it does.
	Troubles []string
}

// tally is what a worker counts of itself.
type tally struct {
	mu          sync.Mutex
	attempts    map[promise.Cause]uint64
	received    uint64
	claimed     uint64
	extended    uint64
	unproven    uint64
	queueWait   Histogram
	start       Histogram
	margin      Histogram
	lastReceive time.Time
	draining    bool
}

// ended takes note of an attempt's end.
func (t *tally) ended(cause promise.Cause) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempts == nil {
		t.attempts = make(map[promise.Cause]uint64)
	}
	t.attempts[cause]++
}

// answered takes note of a receive that brought n messages.
func (t *tally) answered(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.received += uint64(n)
	t.lastReceive = time.Now()
}

// claims takes note of a task that was claimed for a message. One that comes
// again has not waited all the time since it was sent.
func (t *tally) claims(d queue.Delivery, now promise.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claimed++
	if d.Receives <= 1 {
		t.queueWait.observe(now.Sub(d.SentAt))
	}
}

// begins takes note of a script that started so long after its message came.
func (t *tally) begins(latency time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start.observe(latency)
}

// extends takes note of a lease that was extended with so much time to spare.
func (t *tally) extends(margin time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.extended++
	t.margin.observe(margin)
}

// unanswered takes note of an extension that got no answer.
func (t *tally) unanswered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unproven++
}

func (t *tally) drains() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
}

// Report returns how w is doing.
func (w *Worker) Report() Report {
	r := Report{
		Slots: w.cfg.Slots, Running: int(w.running.Load()), Kept: len(w.spool.waiting()), Devices: w.cfg.Devices.Report(),
	}
	if p, ok := w.cfg.Runner.(runner.Pooled); ok {
		r.Pool = p.Pool()
	}
	if r.Devices.None {
		r.Troubles = append(r.Troubles, "no device can be lent: "+strings.Join(r.Devices.Quarantined, "; "))
	}
	for _, t := range []*trouble{&w.store, &w.queue, &w.blobs} {
		if why := t.why(); why != "" {
			r.Troubles = append(r.Troubles, why)
		}
	}
	if w.recess.left() > 0 {
		r.Troubles = append(r.Troubles, "scripts cannot be run on this host; see the log")
	}
	t := &w.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining {
		r.Troubles = append(r.Troubles, "it is to stop and receives nothing more")
	}
	r.Attempts, r.Received, r.Unproven, r.LastReceive = maps.Clone(t.attempts), t.received, t.unproven, t.lastReceive
	r.Claimed, r.Extended = t.claimed, t.extended
	r.QueueWait, r.StartLatency, r.LeaseMargin = t.queueWait, t.start, t.margin
	return r
}
