package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// ErrAwaited: something that a task is to await does not exist.
var ErrAwaited = errors.New("there is no such promise to await")

// A change is one record of a write of several, as it becomes, and what must
// follow. With check it is only looked at: it must still be as it is.
type change struct {
	rec     promise.Record
	effects []promise.Effect
	check   bool
}

// resumes reports whether effects resume anybody.
func resumes(effects []promise.Effect) bool {
	for _, eff := range effects {
		if _, ok := eff.(promise.ResumeAwaiter); ok {
			return true
		}
	}
	return false
}

// changed is rec stepped by ev: a change, or a check if that changes nothing.
func (e *Engine) changed(rec promise.Record, ev promise.Event) (change, error) {
	next, effects, err := promise.Step(rec, ev, e.now())
	return change{next, effects, next.Rev == rec.Rev}, err
}

// also steps what c has become by one more event, for the same write.
func (e *Engine) also(c change, ev promise.Event) (change, error) {
	next, err := e.changed(c.rec, ev)
	if !next.check && !c.check {
		next.rec.Rev = c.rec.Rev
	}
	return change{next.rec, slices.Concat(c.effects, next.effects), c.check && next.check}, err
}

// together adds to a change those whom its effects resume in the same write.
// Who is among others already is resumed as it was read for them: to read it
// again would be to forget what they were decided by.
func (e *Engine) together(ctx context.Context, first change, others ...change) ([]change, error) {
	all := append([]change{first}, others...)
	for _, eff := range first.effects {
		resume, ok := eff.(promise.ResumeAwaiter)
		if !ok {
			continue
		}
		ev := promise.Resume{Awaited: resume.Awaited}
		if n := slices.IndexFunc(others, func(o change) bool { return o.rec.ID == resume.Awaiter }); n >= 0 {
			var err error
			if all[1+n], err = e.also(others[n], ev); err != nil {
				return nil, err
			}
			continue
		}
		rec, err := e.Store.Get(ctx, resume.Awaiter)
		if errors.Is(err, store.ErrNotFound) {
			continue // collected
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s, which awaits %s: %w", resume.Awaiter, resume.Awaited, err)
		}
		c, err := e.changed(rec, ev)
		if err != nil {
			return nil, err
		}
		if !c.check {
			all = append(all, c)
		}
	}
	return all, nil
}

// commit writes changes, all or none, and performs what follows. Refused, it
// returns what is stored where a guard did not hold, and [store.ErrRefused].
func (e *Engine) commit(ctx context.Context, all []change) (refused promise.Record, err error) {
	writes := make([]store.Write, len(all))
	for n := range all {
		c := &all[n]
		if !c.check {
			c.rec.WriteID = e.nonce()
			if err := e.archive(ctx, c.effects); err != nil {
				return promise.Record{}, err
			}
		}
		writes[n] = store.Write{Record: c.rec, Check: c.check}
	}
	err = e.Store.ReplaceAll(ctx, writes)
	if err != nil && !slices.ContainsFunc(all, func(c change) bool { return !c.check && ours(err, &c.rec) }) {
		return refusal(all[0].rec.ID, err)
	}
	e.point(PointWritten)
	for n := range all {
		if c := &all[n]; !c.check {
			e.expect(&c.rec)
			e.perform(ctx, &c.rec, c.effects)
		}
	}
	return promise.Record{}, nil
}

// again makes a write of several from what is stored, again and again while it
// is refused, or too large: try makes it smaller then.
func (e *Engine) again(ctx context.Context, id string, try func() error) error {
	for n := range swaps {
		err := try()
		if errors.Is(err, store.ErrTooLarge) {
			continue
		}
		if !errors.Is(err, store.ErrRefused) {
			return err
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: gave way to %d other writers in a row: %w", id, swaps, store.ErrThrottled)
}

// Suspend gives up the task with that id until one of what ev awaits is
// settled. [promise.ErrReady]: one is already, and the task stays acquired.
// [ErrAwaited]: one does not exist. Where more is awaited than one write takes,
// the callbacks are registered one by one, and the task's own write decides.
func (e *Engine) Suspend(ctx context.Context, id string, ev promise.Suspend) (rec promise.Record, err error) {
	awaits := slices.Compact(slices.Sorted(slices.Values(ev.Awaits)))
	ready := promise.Suspend{Version: ev.Version, Ready: true}
	few := true // enough for one write
	err = e.again(ctx, id, func() error {
		if rec, err = e.Get(ctx, id); err != nil {
			return err
		}
		task, verdict := e.changed(rec, ev)
		if verdict != nil { // not by Step, which would decide anew, and without the callbacks
			if !task.check {
				_, err = e.write(ctx, &task.rec, task.effects)
			}
			rec = task.rec
			return cmp.Or(err, verdict)
		}
		all := []change{task}
		for _, awaited := range awaits {
			p, err := e.Get(ctx, awaited)
			if errors.Is(err, promise.ErrNotFound) {
				return fmt.Errorf("%s: %w", promise.DecodeID(awaited), ErrAwaited)
			}
			if err != nil {
				return err
			}
			c, err := e.changed(p, promise.Await{Awaiter: id})
			if errors.Is(err, promise.ErrSettled) {
				rec, err = e.Apply(ctx, id, ready) // since it was looked at, its end has told the task
				return err
			}
			all = append(all, c)
		}
		if !few || len(all) > store.MaxWrites {
			if err := e.awaitOneByOne(ctx, all[1:], id); errors.Is(err, promise.ErrSettled) {
				rec, err = e.Apply(ctx, id, ready)
				return err
			} else if err != nil {
				return err
			}
			all = all[:1]
		}
		_, err := e.commit(ctx, all)
		rec, few = all[0].rec, !errors.Is(err, store.ErrTooLarge)
		return err
	})
	return rec, err
}

// awaitOneByOne registers callbacks by single writes. One without a suspended
// task does no harm. Whose end comes in between has written the task, whose own
// write is refused then.
func (e *Engine) awaitOneByOne(ctx context.Context, awaited []change, awaiter string) error {
	for _, c := range awaited {
		if c.check { // it is registered
			continue
		}
		if _, err := e.Apply(ctx, c.rec.ID, promise.Await{Awaiter: awaiter}); err != nil {
			return err
		}
	}
	return nil
}

// A Fence is the task under which something is done: only while it is acquired
// at that version.
type Fence struct {
	Task    string
	Version uint64
}

// FencedCreate creates rec while the fence holds. If the id is taken, the record
// that has it is returned with [promise.ErrExists]. [ErrFence]: it does not
// hold.
func (e *Engine) FencedCreate(ctx context.Context, f Fence, rec promise.Record) (promise.Record, error) {
	return e.fenced(ctx, f, rec.ID, promise.Create{Record: rec})
}

// FencedSettle settles the promise with that id, by a Settle or a Cancel, while
// the fence holds.
// [ErrFence]; else the errors of [Engine.Apply].
func (e *Engine) FencedSettle(ctx context.Context, f Fence, id string, ev promise.Event) (promise.Record, error) {
	return e.fenced(ctx, f, id, ev)
}

// ErrFence: the task is not held at that version. With it comes what is wrong.
var ErrFence = errors.New("the task does not let this be done")

func (e *Engine) fenced(ctx context.Context, f Fence, id string, ev promise.Event) (rec promise.Record, err error) {
	_, creates := ev.(promise.Create)
	resumed := promise.MaxResumed
	err = e.again(ctx, id, func() error {
		// What is done is looked at before the task, which is held all the while
		// from when its worker was told so until it is not held.
		rec, err = e.Get(ctx, id)
		missing := errors.Is(err, promise.ErrNotFound)
		if err != nil && !missing {
			return err
		}
		holder, held := e.Get(ctx, f.Task)
		if held != nil {
			return fmt.Errorf("%w: %w", ErrFence, held)
		}
		task, held := e.changed(holder, promise.Fence{Version: f.Version})
		switch {
		case held != nil:
			return fmt.Errorf("%w: %w", ErrFence, held)
		case missing && creates:
			rec = promise.Record{}
		case missing:
			return err
		case creates:
			return promise.ErrExists
		}
		one, verdict := e.changed(rec, ev)
		if one.check {
			return verdict
		}
		one.rec, one.effects = promise.Later(one.rec, one.effects, resumed)
		all, err := e.together(ctx, one, task)
		if err != nil {
			return err
		}
		if _, err := e.commit(ctx, all); err != nil {
			if errors.Is(err, store.ErrTooLarge) {
				resumed /= 2
			}
			return err
		}
		rec = all[0].rec
		if creates {
			e.alarm(ctx, holder.Machine, &rec)
		}
		return verdict
	})
	return rec, err
}

// run creates the promise of a schedule's run, if it is not there, and only
// then moves the schedule on.
func (e *Engine) run(ctx context.Context, rec promise.Record, at promise.Time) error {
	if _, err := e.Create(ctx, rec.Run(at), nil); err != nil && !errors.Is(err, promise.ErrExists) {
		return err
	}
	_, err := e.Apply(ctx, rec.ID, promise.Fired{At: at})
	return err
}
