package sweep

import (
	"context"
	"sync"
	"time"

	"modulate/internal/promise"
)

// alarm is what a Sweeper expects next.
type alarm struct {
	mu   sync.Mutex
	at   promise.Time // 0: nothing
	poke chan struct{}
}

// Expect has a Run look at that time rather than at its next beat. What is due
// after that need not be told: the index is read ahead.
func (s *Sweeper) Expect(at promise.Time) {
	if at.Sub(s.engine.Time()) > Look {
		return
	}
	a := &s.alarm
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at != 0 && a.at <= at {
		return
	}
	a.at = at
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// ahead expects what another program executes, if it is what is due first
// before the next beat: scripts can wait for that.
func (s *Sweeper) ahead(ctx context.Context) {
	ids, err := s.engine.Store.Due(ctx, s.engine.Time().Add(Look), 1)
	if err != nil || len(ids) == 0 {
		return // the next look says so
	}
	rec, err := s.engine.Store.Get(ctx, ids[0])
	if err == nil && rec.Protocol != nil && rec.DueAt > s.engine.Time() { // else it stays in spite of a look
		s.Expect(rec.DueAt)
	}
}

// rest waits for d, or until something that is expected is due. It reports
// whether that was before ctx's end.
func (s *Sweeper) rest(ctx context.Context, d time.Duration) bool {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		due, stop := s.alarm.timer(s.engine.Time())
		select {
		case <-due:
			s.alarm.clear()
			stop()
			return true
		case <-s.alarm.poke:
			stop()
		case <-over.C:
			stop()
			return true
		case <-ctx.Done():
			stop()
			return false
		}
	}
}

// timer fires when what is expected is due; nil: nothing is.
func (a *alarm) timer(now promise.Time) (<-chan time.Time, func() bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == 0 {
		return nil, func() bool { return true }
	}
	t := time.NewTimer(max(0, a.at.Sub(now)))
	return t.C, t.Stop
}

func (a *alarm) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = 0
}
