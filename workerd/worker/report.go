package worker

import (
	"maps"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/workerd/device"
)

// A Report is how a worker is doing, for those who watch over it.
type Report struct {
	Slots    int
	Running  int                      // attempts, at this moment
	Attempts map[promise.Cause]uint64 // that have ended, by cause
	Kept     int                      // outcomes that wait for the store
	Received uint64                   // messages
	Unproven uint64                   // extensions of a lease that got no answer

	// LastReceive is when the queue last answered, with a message or without
	// one; zero: it never has. It does not answer while every slot is in use:
	// nobody asks.
	LastReceive time.Time

	Devices device.Report

	// Troubles says why the worker does not do its work; empty: it does.
	Troubles []string
}

// tally is what a worker counts of itself.
type tally struct {
	mu          sync.Mutex
	attempts    map[promise.Cause]uint64
	received    uint64
	unproven    uint64
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
	return r
}
