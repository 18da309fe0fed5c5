// Package sweep lets time pass for promises: it finds what is due and steps it
// with a tick. Dead leases, passed deadlines, messages that got lost and
// effects that were never finished are all repaired by that one event.
//
// It decides nothing. The due index is a hint, and every item is changed by
// its own conditional write: any number of sweepers at once do no harm.
package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// The rhythm of a sweep. A Lambda that makes one [Sweeper.Pass] a minute needs
// a timeout of 75 s.
const (
	Stay = 65 * time.Second // how far a pass looks ahead, and how long it stays at most
	Look = 5 * time.Second  // between two looks
)

// Bounds of one look.
const (
	page       = 256         // ids read at once
	hands      = 8           // items stepped at once
	maxResends = 1000        // messages sent again
	maxStuck   = 5000        // items that fail, and stay
	itemTime   = time.Minute // for one item; a cascade may have many children
)

// Config is what a Sweeper needs.
type Config struct {
	Engine *engine.Engine
	Log    *slog.Logger // nil: discarded
}

// A Sweeper repairs what is due. Its methods may be called from any goroutine.
type Sweeper struct {
	engine *engine.Engine
	log    *slog.Logger
	alarm  alarm
}

// New returns a Sweeper.
func New(cfg Config) *Sweeper {
	return &Sweeper{
		engine: cfg.Engine, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), alarm: alarm{poke: make(chan struct{}, 1)},
	}
}

// Run makes one pass after the other until ctx is cancelled. While nothing is
// due it asks the index every 5 s and does no more: a lease may be as short as
// a second, and what is lost under it must not wait for the next minute. What
// it was told to expect it looks for in time. A
// pass that fails is logged; the next one is made all the same.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		if err := s.Pass(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "a sweep was not whole", "error", err)
		}
		if !s.rest(ctx, beat()) {
			return nil
		}
	}
}

// Pass is one invocation: if anything is due within the next 65 s it stays for
// as long, repairing what is due every 5 s; otherwise it ends at once. The
// error joins that of the index with those of the items; what was not reached
// stays due.
func (s *Sweeper) Pass(ctx context.Context) error {
	until := time.Now().Add(Stay)
	var errs []error
	for {
		coming, err := s.engine.Store.Due(ctx, s.engine.Time().Add(time.Until(until)), 1)
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("looking ahead: %w", err))...)
		}
		if len(coming) == 0 {
			return errors.Join(errs...)
		}
		if err := s.look(ctx, until); err != nil {
			errs = append(errs, err)
		}
		s.ahead(ctx)
		pause := beat()
		if time.Now().Add(pause).After(until) || !s.rest(ctx, pause) {
			return errors.Join(errs...)
		}
	}
}

// beat is the time between two looks, a little different each time: two
// sweepers that began together do not go on together.
func beat() time.Duration { return Look - rand.N(Look/10) }

// look steps everything that is due now, what was due first first, and begins
// nothing after until. All that is stepped leaves the front of the index, so
// the next look goes on from there. An item that fails, or that stays in an
// index that lags, is passed over until the next look.
func (s *Sweeper) look(ctx context.Context, until time.Time) error {
	l := &look{Sweeper: s, seen: make(map[string]bool)}
	for limit := page; limit <= page+maxStuck && time.Now().Before(until); {
		ids, err := s.engine.Store.Due(ctx, s.engine.Time(), limit)
		if err != nil {
			return errors.Join(l.err, fmt.Errorf("looking for what is due: %w", err))
		}
		fresh := l.fresh(ids)
		if len(fresh) == 0 && len(ids) < limit {
			break
		}
		limit = page + len(ids) - len(fresh)
		l.all(ctx, fresh)
	}
	return l.err
}

// look is what one look has done.
type look struct {
	*Sweeper
	seen    map[string]bool
	resends atomic.Int32
	mu      sync.Mutex
	err     error // the first of an item
}

// fresh returns the ids that this look has not had, in random order, so that
// two sweepers do not meet at every item.
func (l *look) fresh(ids []string) []string {
	var fresh []string
	for _, id := range ids {
		if !l.seen[id] {
			l.seen[id] = true
			fresh = append(fresh, id)
		}
	}
	rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	return fresh
}

// all steps ids, a few at once. One that fails does not stop the others.
func (l *look) all(ctx context.Context, ids []string) {
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(hands, len(ids)) {
		wg.Go(func() {
			for id := range work {
				if err := l.item(ctx, id); err != nil {
					l.failed(ctx, id, err)
				}
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	wg.Wait()
}

// item lets time pass for one promise. What came between the index and now is
// seen by the step.
func (l *look) item(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, itemTime)
	defer cancel()
	rec, err := l.engine.Store.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil // collected since
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", id, err)
	}
	// What stopped together comes back bit by bit, and nothing else waits
	// behind it.
	hold := resend(rec, l.engine.Time()) && l.resends.Add(1) > maxResends
	_, err = l.engine.Step(ctx, rec, promise.Tick{Hold: hold})
	return err
}

func (l *look) failed(ctx context.Context, id string, err error) {
	l.log.DebugContext(ctx, "an item stays due", "id", id, "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("ticking %s: %w", id, err)
	}
}

// resend reports whether a tick of rec does no more than send again.
func resend(rec promise.Record, now promise.Time) bool {
	return rec.State == promise.Pending && now < rec.DeadlineAt && rec.Task.State == promise.TaskPending && now >= rec.ResendAt
}
