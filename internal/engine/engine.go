// Package engine is the shell around the core: it loads a record, steps it,
// swaps it, and performs the effects. Router, status, sweeper and worker all
// change promises through it and through nothing else.
package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// Engine applies events to stored promises. Its fields are set before use and
// not changed; the methods may be called from any goroutine.
type Engine struct {
	Store store.Store
	Queue queue.Queue
	Blobs blob.Blobs
	Log   *slog.Logger // nil: discarded

	// Alarm is for where nobody looks for what is due all the time: a promise
	// whose deadline is nearer than this when it is created gets a second
	// message, to be received when it has timed out; one whose task starts later,
	// but sooner than this, a message for then. What else comes due as soon is
	// sent for by the write that makes it so. 0: there is none.
	Alarm time.Duration

	// Expect is told when what was written wants to be stepped again, if another
	// program executes it: nobody waits there as scripts do. Notify is told of
	// each listener to a promise that has ended. nil: nobody is told.
	Expect func(at promise.Time)
	Notify func(id, address string)

	// Now and Nonce replace the clock and the source of nonces.
	Now   func() promise.Time
	Nonce func() promise.Nonce
	// Fail is called at named points between two steps of one operation, for
	// tests that stop the process there. See the Point constants.
	Fail func(point string)
}

// The points at which Fail is called.
const (
	PointArchived  = "engine.archived"  // an attempt was archived, the record not yet written
	PointWritten   = "engine.written"   // the record was written, no effect performed
	PointSent      = "engine.sent"      // a message was sent
	PointCancelled = "engine.cancelled" // one descendant was cancelled, others may be left
	PointCascaded  = "engine.cascaded"  // all descendants were cancelled, the parent not yet marked
)

// alarmSlack is by how much an alarm comes late, for the one who hears it may
// have a slow clock.
const alarmSlack = time.Second

// swaps is how often a contended swap is tried again; an end that has given way
// so often as patience no longer takes along whom it resumes.
const (
	swaps    = 16
	patience = 6
)

// Apply loads the record with that id and steps it by ev. It returns the
// record as it is stored then, also together with a sentinel of package
// promise. Errors of the store other than a refusal come back as they are: the
// outcome is unknown to the caller too.
func (e *Engine) Apply(ctx context.Context, id string, ev promise.Event) (promise.Record, error) {
	rec, err := e.Store.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return promise.Record{}, fmt.Errorf("%s: %w", id, promise.ErrNotFound)
	}
	if err != nil {
		return promise.Record{}, fmt.Errorf("reading %s: %w", id, err)
	}
	return e.Step(ctx, rec, ev)
}

// Get returns the record with that id as it is at this moment: a deadline that
// has passed is settled in the store before it is told.
func (e *Engine) Get(ctx context.Context, id string) (promise.Record, error) {
	return e.Apply(ctx, id, promise.View{})
}

// Step is Apply for a caller that holds the record, perhaps an old one.
func (e *Engine) Step(ctx context.Context, rec promise.Record, ev promise.Event) (promise.Record, error) {
	resumed := promise.MaxResumed
	for try := range swaps {
		next, effects, verdict := promise.Step(rec, ev, e.now())
		if next.Rev == rec.Rev {
			e.perform(ctx, &next, effects)
			return next, verdict
		}
		if try >= patience && !rec.State.Terminal() {
			resumed = 0
		}
		if resumed < promise.MaxResumed {
			next, effects = promise.Later(next, effects, resumed)
		}
		stored, err := e.write(ctx, &next, effects)
		if errors.Is(err, store.ErrTooLarge) {
			resumed /= 2
			continue
		}
		if err == nil {
			return next, verdict
		}
		if !errors.Is(err, store.ErrRefused) {
			return rec, err
		}
		if stored.ID != "" && stored.ID != rec.ID {
			stored = rec // one of those whom it resumes was written meanwhile
		}
		if stored.ID == "" {
			return rec, fmt.Errorf("%s: %w", rec.ID, promise.ErrNotFound)
		}
		rec = stored
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return rec, err
			}
		}
	}
	return rec, fmt.Errorf("%s: gave way to %d other writers in a row: %w", rec.ID, swaps, store.ErrThrottled)
}

// write writes next, with those whom it resumes, and performs what follows. It
// leaves in next what is written, or returns what refused it.
func (e *Engine) write(ctx context.Context, next *promise.Record, effects []promise.Effect) (refused promise.Record, err error) {
	if resumes(effects) {
		all, err := e.together(ctx, change{rec: *next, effects: effects})
		if err != nil {
			return promise.Record{}, err
		}
		refused, err = e.commit(ctx, all)
		*next = all[0].rec
		return refused, err
	}
	next.WriteID = e.nonce()
	if err := e.archive(ctx, effects); err != nil {
		return promise.Record{}, err
	}
	if err := e.Store.Replace(ctx, *next); err != nil && !ours(err, next) {
		return refusal(next.ID, err)
	}
	e.point(PointWritten)
	e.expect(next)
	e.perform(ctx, next, effects)
	return promise.Record{}, nil
}

// Create stores a new promise and sends for it. Where parent is not nil the
// child is stored only while the parent is pending under that claim, in one
// step. If the id is taken, the record that has it is returned with
// [promise.ErrExists].
func (e *Engine) Create(ctx context.Context, rec promise.Record, parent *Parent) (promise.Record, error) {
	return e.create(ctx, promise.Create{Record: rec}, parent)
}

// CreateTaken is Create by the worker that is to execute it: the task is its
// own from the beginning, and nobody is sent for.
func (e *Engine) CreateTaken(ctx context.Context, ev promise.Create) (promise.Record, error) {
	return e.create(ctx, ev, nil)
}

func (e *Engine) create(ctx context.Context, ev promise.Create, parent *Parent) (promise.Record, error) {
	next, effects, err := promise.Step(promise.Record{}, ev, e.now())
	if err != nil {
		return promise.Record{}, err
	}
	next.WriteID = e.nonce()
	if parent == nil {
		err = e.Store.Create(ctx, next)
	} else {
		err = e.attach(ctx, next, *parent)
	}
	var refused *store.Refused
	switch {
	case errors.As(err, &refused) && refused.Stored.ID == next.ID && refused.Stored.WriteID != next.WriteID:
		return refused.Stored, promise.ErrExists
	case err != nil && !ours(err, &next):
		return promise.Record{}, fmt.Errorf("creating %s: %w", next.ID, err)
	}
	e.point(PointWritten)
	e.expect(&next)
	e.perform(ctx, &next, effects)
	if next.Task.State != promise.TaskNone {
		e.alarm(ctx, next.Machine, &next)
	}
	return next, nil
}

// alarm sends a second message for rec if its deadline is near, and one for the
// start of its task if that is.
func (e *Engine) alarm(ctx context.Context, machine string, rec *promise.Record) {
	if left := rec.NotBefore.Sub(e.now()); left > 0 && left < e.Alarm {
		e.perform(ctx, rec, []promise.Effect{promise.Send{Machine: rec.Machine, ID: rec.ID, Version: rec.Task.Version, Delay: left}})
	}
	left := rec.DeadlineAt.Sub(e.now())
	if left < e.Alarm && !rec.State.Terminal() {
		e.perform(ctx, rec, []promise.Effect{promise.Send{Machine: machine, ID: rec.ID, Version: rec.Task.Version, Delay: max(0, left) + alarmSlack}})
	}
}

// expect tells when rec wants to be stepped again.
func (e *Engine) expect(rec *promise.Record) {
	if e.Expect != nil && rec.Protocol != nil && rec.DueAt != 0 {
		e.Expect(rec.DueAt)
	}
}

// A Parent is what a child is attached to. A zero Claim asks only that the
// parent is pending.
type Parent struct {
	ID      string
	Version uint64
	Claim   promise.Nonce
}

// attach creates child in one step with a look at its parent.
func (e *Engine) attach(ctx context.Context, child promise.Record, p Parent) error {
	parent, err := e.Get(ctx, p.ID)
	for try := range swaps {
		if err != nil {
			return err
		}
		if err := promise.CheckParent(parent, p.Version, p.Claim, e.now()); err != nil {
			return fmt.Errorf("parent %s: %w", p.ID, err)
		}
		err := e.Store.ReplaceAll(ctx, []store.Write{{Record: parent, Check: true}, {Record: child}})
		var refused *store.Refused
		if !errors.As(err, &refused) || refused.Stored.ID == child.ID {
			return err
		}
		// The parent was written meanwhile: look again.
		if err := pause(ctx, try); err != nil {
			return err
		}
		parent = refused.Stored
		if parent.ID == "" {
			return fmt.Errorf("parent %s: %w", p.ID, promise.ErrNotFound)
		}
	}
	return fmt.Errorf("parent %s: gave way to %d other writers in a row: %w", p.ID, swaps, store.ErrThrottled)
}

// refusal returns what refused a write of id, or says that it is not known what
// came of it.
func refusal(id string, err error) (promise.Record, error) {
	var refused *store.Refused
	if errors.As(err, &refused) {
		return refused.Stored, err
	}
	return promise.Record{}, fmt.Errorf("writing %s: %w", id, err)
}

// ours reports whether a write was refused by itself.
func ours(err error, next *promise.Record) bool {
	var refused *store.Refused
	return errors.As(err, &refused) && refused.Stored.ID == next.ID && refused.Stored.WriteID == next.WriteID
}

// archive performs the effects that precede the write.
func (e *Engine) archive(ctx context.Context, effects []promise.Effect) error {
	for _, eff := range effects {
		if a, ok := eff.(promise.Archive); ok {
			if err := putAttempt(ctx, e.Blobs, a); err != nil {
				return fmt.Errorf("archiving attempt %d of %s: %w", a.Attempt.Number, a.ID, err)
			}
			e.point(PointArchived)
		}
	}
	return nil
}

// perform does the effects that follow the write. What fails here stays due
// and is repaired by the sweep, so nobody is told but the log.
func (e *Engine) perform(ctx context.Context, rec *promise.Record, effects []promise.Effect) {
	for _, eff := range effects {
		var err error
		switch eff := eff.(type) {
		case promise.Send:
			err = e.Queue.Send(ctx, eff.Machine, queue.Encode(eff.ID, eff.Version), min(eff.Delay, queue.MaxDelay))
			e.point(PointSent)
		case promise.CancelDescendants:
			err = e.cancelDescendants(ctx, *rec)
		case promise.Fire:
			err = e.run(ctx, *rec, eff.At)
		case promise.Notify:
			if e.Notify != nil {
				e.Notify(eff.ID, eff.Address)
			}
		}
		if err != nil {
			e.log().WarnContext(ctx, "an effect is left to the sweep", "id", rec.ID, "effect", fmt.Sprintf("%T", eff), "error", err)
		}
	}
}

// cancelDescendants cancels what is attached below rec, and marks rec done
// once a consistent look finds nothing pending there.
func (e *Engine) cancelDescendants(ctx context.Context, rec promise.Record) error {
	for {
		found, err := e.cancelOnce(ctx, rec.ID)
		if err != nil {
			return err
		}
		if !found {
			break
		}
	}
	e.point(PointCascaded)
	_, err := e.Step(ctx, rec, promise.CascadeDone{})
	return err
}

// cancelOnce cancels every pending descendant of id, and reports whether there
// was one.
func (e *Engine) cancelOnce(ctx context.Context, id string) (found bool, err error) {
	const page = 100
	for after := ""; ; {
		children, err := e.Store.Children(ctx, id, after, page)
		if err != nil {
			return found, fmt.Errorf("looking for children of %s: %w", id, err)
		}
		for _, child := range children {
			after = child.ID
			if child.State.Terminal() {
				continue
			}
			found = true
			if _, err := e.Step(ctx, child, promise.Cancel{SettleID: e.nonce()}); err != nil && !errors.Is(err, promise.ErrSettled) {
				return found, err
			}
			e.point(PointCancelled)
		}
		if len(children) < page {
			return found, nil
		}
	}
}

func (e *Engine) now() promise.Time {
	if e.Now != nil {
		return e.Now()
	}
	return promise.TimeOf(time.Now())
}

func (e *Engine) nonce() (n promise.Nonce) {
	if e.Nonce != nil {
		return e.Nonce()
	}
	rand.Read(n[:]) // never fails
	return n
}

func (e *Engine) point(name string) {
	if e.Fail != nil {
		e.Fail(name)
	}
}

func (e *Engine) log() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.New(slog.DiscardHandler)
}

// pause waits a jittered moment before a contended swap is tried again.
func pause(ctx context.Context, try int) error {
	limit := min(time.Millisecond<<try, 100*time.Millisecond)
	select {
	case <-time.After(mathrand.N(limit)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
