package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// observeGraph looks at a write of a promise that others execute.
func (l *ledger) observeGraph(was, rec promise.Record) {
	w := l.w
	if was.ID == "" {
		l.checkBegin(rec)
	}
	if rec.Protocol.Schedule != nil {
		l.checkSchedule(was, rec)
		return
	}
	if rec.Task.Version != was.Task.Version {
		w.asked[rec.ID] = nil
	}
	w.happened[was.Task.State.String()+" to "+rec.Task.State.String()]++
	switch {
	case was.State.Terminal():
		l.checkTold(was, rec)
	case rec.State.Terminal():
		l.checkEnded(was, rec)
	case was.Task.State == promise.TaskAcquired && rec.Task.State == promise.TaskPending:
		over := l.w.now.Add(2*time.Second) >= was.Task.LeaseEnd // by some clock
		if !over && w.released[rec.ID] != was.Task.Version {
			l.breaks("the task of %s is taken from its worker, whose lease goes on until %s", rec.ID, was.Task.LeaseEnd.Sub(epoch))
		}
	}
}

// checkBegin: what is made under a fence is made while its task is held.
func (l *ledger) checkBegin(rec promise.Record) {
	id, v, fenced := strings.Cut(rec.Protocol.Param.Data, " ")
	if holder := l.records[id]; fenced {
		version, _ := strconv.ParseUint(v, 10, 64)
		if holder.Task.State != promise.TaskAcquired || holder.Task.Version != version {
			l.breaks("%s is made under version %d of %s, whose task is %s at %d", rec.ID, version, id, holder.Task.State, holder.Task.Version)
		}
	}
	if p := l.w.pieces[rec.ID]; p.kind == external && p.after > 0 {
		l.w.startPeople(p)
	}
}

// checkSchedule: each run is there before the schedule moves on.
func (l *ledger) checkSchedule(was, rec promise.Record) {
	if was.ID == "" || was.Protocol.Schedule.NextAt == rec.Protocol.Schedule.NextAt {
		return
	}
	l.w.happened["run of a schedule"]++
	if run, _, _ := was.Protocol.Schedule.Run(was.Protocol.Schedule.NextAt); l.records[run].ID == "" {
		l.breaks("the schedule moves on, and %s was never made", run)
	}
}

// prompt is how late something may be that the sweep sees to, where nothing is
// away.
const prompt = 2 * time.Minute

func (l *ledger) calm() bool { return l.w.outage == (window{}) && len(l.w.bursts) == 0 }

// checkEnded looks at the write that ends a promise.
func (l *ledger) checkEnded(was, is promise.Record) {
	l.settled[is.ID]++
	l.ended[is.ID] = l.w.now
	if len(is.Protocol.Callbacks) > 0 {
		l.w.happened["resumed later"]++
	}
	if late := l.w.now.Sub(is.DeadlineAt); l.calm() && late > prompt {
		l.breaks("%s ends %s after its deadline", is.ID, late)
	}
	if timer := is.Tag(promise.TagTimer) != ""; timer && (is.State != promise.Resolved || is.SettledAt != is.DeadlineAt) {
		l.breaks("the timer %s is %s %s after its time", is.ID, is.State, is.SettledAt.Sub(is.DeadlineAt))
	}
	if n, err := strconv.Atoi(is.Protocol.Value.Data); err == nil {
		x := l.executions[n-1]
		if x.id != is.ID || was.Task.State != promise.TaskAcquired || x.version != was.Task.Version {
			l.breaks("%s is completed by turn %d under version %d, and its task was %s at %d", is.ID, n, x.version, was.Task.State, was.Task.Version)
		}
	}
}

// checkTold: of what has ended nothing changes but whom it has still to resume.
func (l *ledger) checkTold(was, is promise.Record) {
	if !equalBut(untold(was), untold(is)) {
		l.breaks("%s was settled as %s and is settled again as %s", is.ID, was.State, is.State)
	}
	if n := len(is.Protocol.Callbacks); n > 0 && n >= len(was.Protocol.Callbacks) {
		l.breaks("those who await %s are resumed, and will be again", is.ID)
	}
	if late := l.w.now.Sub(l.ended[is.ID]); l.calm() && late > prompt {
		l.breaks("those who await %s are resumed %s after its end", is.ID, late)
	}
}

func untold(rec promise.Record) promise.Record {
	p := *rec.Protocol
	p.Callbacks = nil
	rec.Protocol = &p
	return rec
}

// checkSuspended looks at a write once it is done as a whole: whom an end no
// longer has to resume is not suspended, and who is suspended has a callback with
// all that it asked to await.
func (l *ledger) checkSuspended(was []promise.Record, writes []store.Write) {
	for n, write := range writes {
		rec := write.Record
		if write.Check || rec.Protocol == nil {
			continue
		}
		if was[n].ID != "" {
			for _, id := range was[n].Protocol.Callbacks {
				if !slices.Contains(rec.Protocol.Callbacks, id) && l.suspended(id) {
					l.breaks("%s has ended, and %s, which awaited it, stays suspended", rec.ID, id)
				}
			}
		}
		if l.suspended(rec.ID) && was[n].Task.State != promise.TaskSuspended && !slices.ContainsFunc(l.w.asked[rec.ID], func(awaits []string) bool {
			return !slices.ContainsFunc(awaits, func(id string) bool { return !slices.Contains(l.records[id].Protocol.Callbacks, rec.ID) })
		}) {
			l.breaks("%s is suspended, and not all that it awaits will resume it", rec.ID)
		}
		if len(writes) == 1 && rec.Task.State == promise.TaskSuspended && was[n].Task.State == promise.TaskAcquired {
			l.w.happened["suspended bit by bit"]++
		}
	}
}

// suspended reports whether a task is; after its deadline nobody resumes it.
func (l *ledger) suspended(id string) bool {
	rec := l.records[id]
	return rec.Task.State == promise.TaskSuspended && l.w.now.Add(5*time.Second) < rec.DeadlineAt
}

// checkFlows looks at the workflows once everything has ended: those that were
// called, and that nobody cut short, have done all they were to do, once.
func (w *world) checkFlows() {
	for id, f := range w.flows {
		rec := w.records[id]
		if rec.ID == "" {
			continue // its parent was cut short
		}
		cut := f.short || f.canceled
		if w.settled[id] != 1 || rec.State != promise.Resolved && !cut {
			w.breaks("%s is %s (%s), and was settled %d times", id, rec.State, rec.Outcome.Error.Detail, w.settled[id])
		}
	}
}
