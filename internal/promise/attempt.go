package promise

import (
	"slices"
	"strings"
)

// endAttempt closes the attempt that is open, and renames one that was taken
// for lost when its worker reports after all.
func (s *step) endAttempt(cause Cause) {
	if s.rec.Remote() {
		return // it has none
	}
	last := s.lastAttempt()
	open := s.rec.Task.State == TaskAcquired
	late := last.Cause == CauseLost && cause.blame() != others
	if !open && !late {
		return
	}
	last.EndedAt, last.Cause = s.now, cause
	s.rec.Attempts = append(slices.Clone(s.rec.Attempts[:len(s.rec.Attempts)-1]), last)
}

func (s *step) lastAttempt() Attempt {
	if len(s.rec.Attempts) == 0 {
		return Attempt{}
	}
	return s.rec.Attempts[len(s.rec.Attempts)-1]
}

// causes says how the attempts in the record ended.
func (s *step) causes() string {
	var causes []string
	for i, a := range s.rec.Attempts {
		if i == keptAttempts && a.Number > keptAttempts+1 {
			causes = append(causes, "…")
		}
		causes = append(causes, string(a.Cause))
	}
	return "how the attempts ended: " + strings.Join(causes, ", ")
}
