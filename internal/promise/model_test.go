package promise

import (
	"slices"
	"strings"
	"time"
)

// model is the core as one would explain it to somebody at a whiteboard. It
// shares no line with Step, keeps the whole history, and repeats itself rather
// than being clever.
type model struct {
	born                            bool
	state                           State
	cause                           Cause
	told                            Problem // by the worker whose report was the last, or how its attempts ended
	toldBy                          uint64  // its version
	settledAt                       Time
	settleID                        Nonce
	deadline                        Time
	call                            Call
	running                         bool // a worker holds the task
	version                         uint64
	claim                           Nonce // of the last claim
	mayBeLate                       bool  // lost, and its worker has not reported
	lease                           time.Duration
	leaseEnd                        Time
	history                         []Attempt
	retries, crashes, drains, sends uint32
	notBefore, resendAt             Time
	cascade                         bool
	sent                            bool // a message has just become necessary
	cancelled                       bool // a cascade has just become necessary
}

// step applies ev and returns the sentinel that Step must return.
func (m *model) step(ev Event, now Time) error {
	m.sent, m.cancelled = false, false
	if c, ok := ev.(Create); ok {
		if m.born {
			return ErrExists
		}
		*m = model{born: true, deadline: c.Record.DeadlineAt, call: c.Record.Call}
		m.wait(now, 0)
		return nil
	}
	if !m.born {
		return ErrNotFound
	}
	timedOut := m.state == Pending && now >= m.deadline
	if timedOut {
		m.end(CauseDeadline, m.deadline)
		m.settle(TimedOut, CauseDeadline, Nonce{}, m.deadline)
		m.cascade, m.cancelled = true, true
	}
	switch ev := ev.(type) {
	case Claim:
		return m.doClaim(ev, now)
	case Acquire:
		return m.doAcquire(ev, now)
	case Extend:
		if err := m.mine(ev.Version, ev.ClaimID); err != nil {
			return err
		}
		m.leaseEnd = now.Add(m.lease)
	case Release:
		if err := m.mine(ev.Version, ev.ClaimID); err != nil {
			return err
		}
		m.drains++
		m.end(ev.Cause, now)
		m.wait(now, 0)
	case Fulfil:
		return m.doFulfil(ev, false, now)
	case LateSettle:
		return m.doFulfil(Fulfil(ev), true, now)
	case Settle:
		if m.state != Pending {
			return m.repeated(ev.SettleID)
		}
		if ev.State != Resolved && ev.State != Rejected {
			return ErrState
		}
		m.end(CauseCanceled, now)
		m.settle(ev.State, ev.Outcome.Cause, ev.SettleID, now)
		m.told = ev.Outcome.Error
	case Cancel:
		if m.state == Canceled {
			return nil
		}
		if m.state != Pending {
			return ErrSettled
		}
		m.end(CauseCanceled, now)
		m.settle(Canceled, CauseCanceled, ev.SettleID, now)
		m.cascade, m.cancelled = true, true
	case CascadeDone:
		if !timedOut {
			m.cascade = false
		}
	case Tick:
		m.doTick(ev.Hold, now)
	}
	return nil
}

func (m *model) doClaim(ev Claim, now Time) error {
	if m.state != Pending {
		return ErrSettled
	}
	if m.running && ev.ClaimID == m.claim && ev.ClaimID != (Nonce{}) {
		return nil
	}
	if m.running && now < m.leaseEnd.Add(5*time.Second) {
		return ErrLeased
	}
	if m.running {
		m.lose(CauseLost, now)
	}
	if m.state != Pending {
		return ErrSettled
	}
	if now < m.notBefore {
		return ErrNotYet
	}
	m.start(ev.Worker, ev.ClaimID, m.call.Lease, now)
	return nil
}

func (m *model) doAcquire(ev Acquire, now Time) error {
	if m.state != Pending {
		return ErrSettled
	}
	if m.running && ev.ClaimID == m.claim && ev.ClaimID != (Nonce{}) && ev.Version+1 == m.version {
		return nil
	}
	if m.running {
		return ErrState
	}
	if ev.Version != m.version {
		return ErrVersion
	}
	lease := ev.Lease
	if lease == 0 {
		lease = m.call.Lease
	}
	m.start(ev.Worker, ev.ClaimID, lease, now)
	return nil
}

func (m *model) doFulfil(ev Fulfil, late bool, now Time) error {
	if m.state != Pending {
		return m.repeated(ev.SettleID)
	}
	ours := ev.Version == m.version && ev.ClaimID == m.claim
	back := late && !m.running && m.mayBeLate && ours && ev.ClaimID != (Nonce{})
	if !(m.running && ours) && !back {
		return ErrVersion
	}
	c := ev.Outcome.Cause
	if slices.Contains([]Cause{CauseCanceled, CauseDrained, CauseSpot, CauseExhausted, CauseDeadline}, c) {
		return ErrState
	}
	if back { // the worker is there after all: undo the loss
		m.crashes--
		m.running = true
	}
	if c == CauseOK {
		m.end(c, now)
		m.settle(Resolved, c, ev.SettleID, now)
		m.told, m.toldBy = ev.Outcome.Error, ev.Version
		return nil
	}
	if c == CauseBadHost || c == CauseFrozen || c == CauseLost {
		m.lose(c, now)
		m.mayBeLate = false
		if m.state != Pending {
			m.settleID, m.toldBy = ev.SettleID, ev.Version
			if said := ev.Outcome.Error; said.Detail != "" {
				said.Detail += "; " + m.told.Detail
				m.told = said
			}
			return nil
		}
		m.wait(now, []time.Duration{2, 4, 8, 16, 32}[m.crashes-1]*time.Second)
		return nil
	}
	m.end(c, now)
	wait := m.retryWait()
	if wait < 0 || now.Add(wait) >= m.deadline {
		m.settle(Rejected, c, ev.SettleID, now)
		m.told, m.toldBy = ev.Outcome.Error, ev.Version
		return nil
	}
	m.retries++
	m.wait(now, wait)
	return nil
}

func (m *model) doTick(hold bool, now Time) {
	if m.cascade {
		m.cancelled = true
	}
	if m.state != Pending {
		return
	}
	if m.running && now >= m.leaseEnd.Add(5*time.Second) {
		m.lose(CauseLost, now)
		return
	}
	if !m.running && now >= m.resendAt && hold {
		m.resendAt = now.Add(heldFor("p"))
		return
	}
	if !m.running && now >= m.resendAt {
		m.sent = true
		m.sends++
		m.resendAt = now.Add(resendAfter("p", m.sends))
	}
}

// retryWait is how long to wait before the next attempt; negative: there is
// none.
func (m *model) retryWait() time.Duration {
	r := m.call.Retry
	if r.Policy == Never || m.retries+1 >= r.MaxAttempts {
		return -1
	}
	wait := r.Delay
	if r.Policy == Linear {
		wait = r.Delay * time.Duration(m.retries+1)
	}
	if r.Policy == Exponential {
		wait = r.Delay << m.retries
	}
	if wait > r.MaxDelay {
		wait = r.MaxDelay
	}
	return wait
}

func (m *model) start(worker string, claim Nonce, lease time.Duration, now Time) {
	m.running, m.mayBeLate = true, false
	m.version++
	m.claim, m.lease, m.leaseEnd = claim, lease, now.Add(lease)
	m.notBefore, m.resendAt, m.sends = 0, 0, 0
	m.sent = false
	m.history = append(m.history, Attempt{
		Number: uint32(len(m.history)) + 1, Version: m.version, Worker: worker, StartedAt: now,
	})
}

// lose ends the attempt by the host's fault; the sixth time for ever.
func (m *model) lose(c Cause, now Time) {
	m.end(c, now)
	m.crashes++
	if m.crashes == 6 {
		m.settle(Rejected, CauseExhausted, Nonce{}, now)
		m.told.Detail = "how the attempts ended: " + m.ends()
		return
	}
	m.wait(now, 0)
	m.mayBeLate = c == CauseLost
}

// ends names the ends of the first three and the last three attempts.
func (m *model) ends() string {
	var first, last []string
	for i, a := range m.history {
		switch {
		case i < 3:
			first = append(first, string(a.Cause))
		case i >= len(m.history)-3:
			last = append(last, string(a.Cause))
		}
	}
	if len(m.history) > 6 {
		first = append(first, "…")
	}
	return strings.Join(append(first, last...), ", ")
}

// end closes the running attempt.
func (m *model) end(c Cause, now Time) {
	if !m.running {
		return
	}
	last := &m.history[len(m.history)-1]
	last.Cause, last.EndedAt = c, now
	m.running = false
}

// wait makes the task wait for a worker.
func (m *model) wait(now Time, delay time.Duration) {
	m.leaseEnd, m.notBefore, m.sends = 0, 0, 0
	if delay > 0 {
		m.notBefore = now.Add(delay)
	}
	m.resendAt = now.Add(delay + time.Minute)
	m.sent = true
	m.mayBeLate = false
}

func (m *model) settle(s State, c Cause, id Nonce, at Time) {
	m.state, m.cause, m.settleID, m.settledAt = s, c, id, at
	m.leaseEnd, m.notBefore, m.resendAt, m.sends = 0, 0, 0, 0
	m.mayBeLate, m.sent = false, false
}

func (m *model) mine(version uint64, claim Nonce) error {
	if m.state != Pending {
		return ErrSettled
	}
	if !m.running || version != m.version || claim != m.claim {
		return ErrVersion
	}
	return nil
}

func (m *model) repeated(id Nonce) error {
	if id != (Nonce{}) && id == m.settleID {
		return nil
	}
	return ErrSettled
}
