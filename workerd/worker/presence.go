package worker

import (
	"context"
	"time"

	"modulate/internal/store"
)

// announceGap is how long after an announcement a change of the number of
// running scripts is held back, where Config says nothing.
const announceGap = 3 * time.Second

// count takes note that n more attempts run.
func (w *Worker) count(n int32) {
	w.running.Add(n)
	select {
	case w.presence <- struct{}{}:
	default:
	}
}

// keepAnnounced tells the roster of this worker every minute, and some time
// after the number of running scripts has changed.
func (w *Worker) keepAnnounced(ctx context.Context) {
	if w.cfg.Roster == nil {
		return
	}
	for said, at := int32(0), time.Now(); pause(ctx, w.cfg.AnnounceGap); {
		due := time.NewTimer(time.Until(at.Add(store.PresenceEvery)))
		select {
		case <-w.presence:
		case <-due.C:
		case <-ctx.Done():
		}
		due.Stop()
		n := w.running.Load()
		if ctx.Err() == nil && (n != said || time.Since(at) >= store.PresenceEvery) {
			said, at = n, time.Now()
			w.announce(ctx, int(n))
		}
	}
}

// announce tells the roster that n scripts run here.
func (w *Worker) announce(ctx context.Context, n int) {
	if w.cfg.Roster == nil {
		return
	}
	now := w.engine.Time()
	_ = w.store.call(ctx, callTime, func(ctx context.Context) error {
		return w.cfg.Roster.Announce(ctx, store.Presence{
			Worker: w.cfg.Name, Machine: w.cfg.Machine,
			Slots: w.cfg.Slots, Running: n, Started: w.started, Seen: now,
		})
	})
}

// retire takes this worker off the roster.
func (w *Worker) retire(ctx context.Context) {
	if w.cfg.Roster == nil {
		return
	}
	_ = w.store.call(ctx, settleTime, func(ctx context.Context) error {
		return w.cfg.Roster.Retire(ctx, w.cfg.Name)
	})
}
