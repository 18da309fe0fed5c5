package promise

import (
	"slices"
	"time"
)

// Step returns the record that follows rec when ev happens at now, and the
// effects that must follow. It is the only function that changes a promise.
//
// The next record has Rev one higher exactly when it differs from rec, with a
// zero WriteID for the caller to fill in. That may be so together with an
// error: an event that comes after the deadline finds the promise timed out,
// which must be stored, and is refused all the same.
func Step(rec Record, ev Event, now Time) (Record, []Effect, error) {
	s := step{rec: rec, now: now, due: rec.DueAt}
	err := s.apply(ev)
	if !s.changed {
		return rec, s.effects, err
	}
	s.rec.Rev = rec.Rev + 1
	s.rec.WriteID = Nonce{}
	_, tick := ev.(Tick)
	s.index(tick)
	return s.rec, s.effects, err
}

// step is one call of Step: the record as it becomes.
type step struct {
	rec     Record
	now     Time
	due     Time // the indexed time before
	changed bool
	effects []Effect
}

func (s *step) apply(ev Event) error {
	if c, ok := ev.(Create); ok {
		return s.create(c)
	}
	if s.rec.ID == "" {
		return ErrNotFound
	}
	if r, ok := ev.(Resume); ok {
		return s.resume(r.Awaited)
	}
	if s.rec.State == Pending && s.now >= s.rec.DeadlineAt {
		s.expire()
	}
	switch ev := ev.(type) {
	case View:
		return nil
	case Tick:
		s.tick(ev.Hold)
		return nil
	case Acquire:
		return s.acquire(ev)
	case Claim:
		return s.claim(ev)
	case Extend:
		return s.extend(ev)
	case Release:
		if s.rec.Task.State == TaskNone {
			return ErrNotFound
		}
		return s.release(ev)
	case Fulfil:
		return s.fulfil(ev, false)
	case LateSettle:
		return s.fulfil(Fulfil(ev), true)
	case Settle:
		return s.settleFrom(ev)
	case Cancel:
		return s.cancel(ev)
	case Heartbeat, Complete, Suspend, Fence, Halt, Continue:
		return s.ofTask(ev)
	case Await, Listen:
		return s.listen(ev)
	case Fired:
		return s.fired(ev)
	case Reschedule:
		return s.reschedule(ev)
	case CascadeDone:
		if s.rec.Cascade && !s.changed { // else it has just begun
			s.rec.Cascade = false
			s.change()
		}
		return nil
	default:
		return ErrState
	}
}

func (s *step) create(ev Create) error {
	rec := ev.Record
	if s.rec.ID != "" {
		return ErrExists
	}
	if rec.Remote() {
		s.open(ev)
		return nil
	}
	rec.CreatedAt = s.now
	rec.Task = Task{State: TaskPending}
	rec.ResendAt = s.now.Add(resendAfter(rec.ID, 0))
	s.rec = rec
	s.change()
	s.send(0)
	return nil
}

func (s *step) acquire(ev Acquire) error {
	switch {
	case s.rec.Task.State == TaskNone:
		return ErrNotFound
	case s.rec.State.Terminal():
		return ErrSettled
	case s.holds(ev.Version+1, ev.ClaimID) && ev.ClaimID != Nonce{}:
		return nil // ours already: the first answer was lost
	case s.rec.Task.State != TaskPending:
		return ErrState
	case s.rec.Task.Version != ev.Version && !ev.Latest:
		return ErrVersion
	}
	s.begin(ev.Worker, ev.ClaimID, ev.Lease)
	return nil
}

func (s *step) claim(ev Claim) error {
	if s.rec.Remote() {
		return ErrState
	}
	t := &s.rec.Task
	if s.rec.State == Pending && t.State == TaskAcquired {
		if t.ClaimID == ev.ClaimID && ev.ClaimID != (Nonce{}) {
			return nil // ours already: the first answer was lost
		}
		if s.now < s.rec.leaseOver() {
			return ErrLeased
		}
		s.crash(Outcome{Cause: CauseLost}, 0)
	}
	switch {
	case s.rec.State.Terminal():
		return ErrSettled
	case t.State != TaskPending:
		return ErrState
	case s.now < s.rec.NotBefore:
		return ErrNotYet
	}
	s.effects = nil // nobody else need come for what was lost just now
	s.begin(ev.Worker, ev.ClaimID, 0)
	return nil
}

// begin starts the next attempt.
func (s *step) begin(worker string, claim Nonce, lease time.Duration) {
	if lease == 0 {
		lease = s.rec.Call.Lease
	}
	version := s.rec.Task.Version + 1
	s.rec.Task = Task{
		State: TaskAcquired, Version: version, Worker: worker,
		ClaimID: claim, Lease: lease, LeaseEnd: s.now.Add(lease),
	}
	s.rec.NotBefore, s.rec.ResendAt, s.rec.Sends = 0, 0, 0
	s.rec.Attempt++
	s.change()
	if s.rec.Remote() {
		if len(s.rec.Protocol.Resumes) > 0 {
			s.protocol().Resumes = nil
		}
		return
	}
	s.rec.Attempts = append(slices.Clone(s.rec.Attempts), Attempt{
		Number: s.rec.Attempt, Version: version, Worker: worker, StartedAt: s.now,
	})
	if len(s.rec.Attempts) > 2*keptAttempts {
		s.effects = append(s.effects, Archive{ID: s.rec.ID, Attempt: s.rec.Attempts[keptAttempts]})
		s.rec.Attempts = slices.Delete(s.rec.Attempts, keptAttempts, keptAttempts+1)
	}
}

func (s *step) extend(ev Extend) error {
	if err := s.mine(ev.Version, ev.ClaimID); err != nil {
		return err
	}
	if end := s.now.Add(s.rec.Task.Lease); end != s.rec.Task.LeaseEnd {
		s.rec.Task.LeaseEnd = end
		s.change()
	}
	return nil
}

func (s *step) release(ev Release) error {
	if err := s.mine(ev.Version, ev.ClaimID); err != nil {
		return err
	}
	if s.rec.Remote() {
		s.giveBack()
		return nil
	}
	s.rec.Drains++
	s.endAttempt(ev.Cause)
	s.rec.Task.ClaimID = Nonce{} // given back: nothing settles late
	s.requeue(0)
	return nil
}

func (s *step) fulfil(ev Fulfil, late bool) error {
	if s.rec.State.Terminal() {
		return s.settledBy(ev.SettleID)
	}
	lost := late && s.rec.Task.State == TaskPending &&
		s.rec.Task.Version == ev.Version && s.rec.Task.ClaimID == ev.ClaimID && ev.ClaimID != Nonce{}
	if !lost && !s.holds(ev.Version, ev.ClaimID) {
		return ErrVersion
	}
	if s.rec.Remote() {
		return ErrState
	}
	blame := ev.Outcome.Cause.blame()
	if blame == others {
		return ErrState
	}
	if lost {
		s.rec.Crashes-- // it was not lost after all
	}
	ev.Outcome.Version = ev.Version
	switch blame {
	case nobody:
		s.endAttempt(CauseOK)
		s.settle(Resolved, ev.Outcome, ev.SettleID)
	case theScript:
		s.fail(ev)
	case theHost:
		s.crash(ev.Outcome, hostDelay(s.rec.Crashes+1))
		s.reported(ev.SettleID)
	}
	return nil
}

// fail ends an attempt by the script's own doing.
func (s *step) fail(ev Fulfil) {
	s.endAttempt(ev.Outcome.Cause)
	delay, again := s.rec.Call.Retry.next(s.rec.Retries + 1)
	if !again || s.now.Add(delay) >= s.rec.DeadlineAt {
		s.settle(Rejected, ev.Outcome, ev.SettleID)
		return
	}
	s.rec.Retries++
	s.requeue(delay)
	s.reported(ev.SettleID)
}

// reported ends what a worker may say of its attempt: nothing settles late.
func (s *step) reported(id Nonce) {
	if s.rec.State.Terminal() {
		s.rec.SettleID = id
		return
	}
	s.rec.Task.ClaimID = Nonce{}
}

// crash ends an attempt by the host's doing. The claim stays on record, so
// that an outcome kept by a worker that was cut off can still settle. The next
// one starts after delay; of out, an end for good keeps what went wrong.
func (s *step) crash(out Outcome, delay time.Duration) {
	s.endAttempt(out.Cause)
	s.rec.Crashes++
	if s.rec.Crashes > MaxCrashes {
		if out.Error.Detail != "" {
			out.Error.Detail += "; "
		}
		out.Error.Detail += s.causes()
		s.settle(Rejected, Outcome{Cause: CauseExhausted, Version: out.Version, Error: out.Error}, Nonce{})
		return
	}
	s.requeue(delay)
}

func (s *step) settleFrom(ev Settle) error {
	if s.rec.State.Terminal() {
		return s.settledBy(ev.SettleID)
	}
	if ev.State != Resolved && ev.State != Rejected && (ev.State != Canceled || !s.rec.Remote()) {
		return ErrState
	}
	if s.rec.Protocol != nil {
		s.protocol().Value = ev.Value
	}
	s.endAttempt(CauseCanceled)
	s.settle(ev.State, ev.Outcome, ev.SettleID)
	return nil
}

func (s *step) cancel(ev Cancel) error {
	if s.rec.State == Canceled {
		return nil
	}
	if s.rec.State.Terminal() {
		return ErrSettled
	}
	s.endAttempt(CauseCanceled)
	s.settle(Canceled, Outcome{Cause: CauseCanceled}, ev.SettleID)
	s.cascade()
	return nil
}

// expire settles a promise whose deadline has passed, as of the deadline.
func (s *step) expire() {
	seen := s.now
	s.now = s.rec.DeadlineAt
	s.endAttempt(CauseDeadline)
	switch {
	case s.rec.Tag(TagTimer) == "true" && s.rec.Remote():
		s.settle(Resolved, Outcome{}, Nonce{})
	default:
		s.settle(TimedOut, Outcome{Cause: CauseDeadline}, Nonce{})
	}
	if !s.rec.Remote() {
		s.cascade()
	}
	s.now = seen
}

func (s *step) tick(hold bool) {
	switch {
	case s.rec.Cascade:
		if !s.changed { // else it has just been said
			s.effects = append(s.effects, CancelDescendants{ID: s.rec.ID})
		}
	case s.rec.State.Terminal():
		if !s.changed { // else it has just been said
			s.tell()
		}
	case s.rec.schedule() != nil:
		if s.now >= s.rec.schedule().NextAt && s.rec.schedule().NextAt != 0 {
			s.effects = append(s.effects, Fire{ID: s.rec.ID, At: s.rec.schedule().NextAt})
		}
	case s.rec.Task.State == TaskAcquired && s.rec.Remote() && s.now >= s.rec.leaseOver():
		s.giveBack()
	case s.rec.Task.State == TaskAcquired && s.now >= s.rec.leaseOver():
		s.crash(Outcome{Cause: CauseLost}, 0)
	case s.rec.Task.State == TaskPending && s.now >= s.rec.ResendAt && hold:
		s.rec.ResendAt = s.now.Add(heldFor(s.rec.ID))
		s.change()
	case s.rec.Task.State == TaskPending && s.now >= s.rec.ResendAt:
		s.rec.Sends++
		s.rec.ResendAt = s.now.Add(s.resendAfter(s.rec.Sends))
		s.change()
		s.send(0)
	}
	if s.rec.DueAt != Due(s.rec) {
		s.change() // the index moves on
	}
}

// settle ends the promise, once.
func (s *step) settle(state State, out Outcome, id Nonce) {
	s.rec.State, s.rec.Outcome = state, out
	s.rec.SettledAt, s.rec.SettleID = s.now, id
	if s.rec.Task.State != TaskNone {
		s.rec.Task.State = TaskFulfilled
	}
	s.rec.Task.LeaseEnd, s.rec.NotBefore, s.rec.ResendAt, s.rec.Sends = 0, 0, 0, 0
	s.change()
	s.tell()
}

// requeue makes the task pending again and sends for it after delay.
func (s *step) requeue(delay time.Duration) {
	s.rec.Task.State = TaskPending
	s.rec.Task.LeaseEnd, s.rec.Sends = 0, 0
	s.rec.NotBefore = 0
	if delay > 0 {
		s.rec.NotBefore = s.now.Add(delay)
	}
	s.rec.ResendAt = s.now.Add(delay + s.resendAfter(0))
	s.change()
	s.send(delay)
}

func (s *step) cascade() {
	s.rec.Cascade = true
	s.effects = append(s.effects, CancelDescendants{ID: s.rec.ID})
}

func (s *step) send(delay time.Duration) {
	s.effects = append(s.effects, Send{Machine: s.rec.Machine, ID: s.rec.ID, Version: s.rec.Task.Version, Delay: delay})
}

func (s *step) mine(version uint64, claim Nonce) error {
	if s.rec.State.Terminal() {
		return ErrSettled
	}
	if !s.holds(version, claim) {
		return ErrVersion
	}
	return nil
}

// settledBy tells our own settle, whose answer was lost, from another's.
func (s *step) settledBy(id Nonce) error {
	if s.rec.SettleID == id && id != (Nonce{}) {
		return nil
	}
	return ErrSettled
}

// holds reports whether the task is acquired under version and claim.
func (s *step) holds(version uint64, claim Nonce) bool {
	t := s.rec.Task
	return t.State == TaskAcquired && t.Version == version && t.ClaimID == claim
}

func (s *step) change() { s.changed = true }

// CheckParent reports whether a child may be attached below parent at now: the
// parent is pending and, where claim is not zero, its task is held under
// version and claim.
func CheckParent(parent Record, version uint64, claim Nonce, now Time) error {
	s := step{rec: parent}
	if parent.State.Terminal() || now >= parent.DeadlineAt || claim != (Nonce{}) && !s.holds(version, claim) {
		return ErrParent
	}
	return nil
}
