package promise

// index keeps DueAt no later than Due. It moves the index earlier at once and
// later only on a tick, so that a claim or an extension seldom rewrites it.
func (s *step) index(tick bool) {
	d := Due(s.rec)
	if tick || s.due == 0 || d < s.due {
		s.rec.DueAt = d
		return
	}
	s.rec.DueAt = s.due
}

// Due returns when rec next needs a Tick: the earliest of its deadline, the
// end of its lease, its re-send and its unfinished effects. Zero: never.
func Due(rec Record) Time {
	switch {
	case rec.Cascade, rec.State.Terminal() && rec.Protocol != nil && len(rec.Protocol.Callbacks) > 0:
		return max(rec.SettledAt, 1)
	case rec.State.Terminal():
		return 0
	case rec.schedule() != nil:
		return rec.schedule().NextAt
	case rec.Task.State == TaskAcquired:
		return min(rec.DeadlineAt, rec.leaseOver())
	case rec.Task.State == TaskPending:
		return min(rec.DeadlineAt, rec.ResendAt)
	default:
		return rec.DeadlineAt
	}
}
