package sim

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// ledger is what really happened, seen from above: what everybody was told and
// what ran when. The checker compares the store with it.
type ledger struct {
	w       *world
	isWild  bool // clocks are far apart: scripts may run more often, and nothing else
	order   []string
	records map[string]promise.Record // as stored
	history map[string][]indexing
	plans   map[string]*plan
	told    map[string]promise.Record // terminal records that somebody read
	settled map[string]int
	ended   map[string]promise.Time // when, by the true clock

	executions []*execution
	byReceipt  map[string]*execution
	faults     map[string]int
	broken     []string
	log        io.Writer
}

// plan is a submission and what its script is going to do.
type plan struct {
	id, parent string
	accepted   bool // whoever submitted it has an answer
	short      bool // its deadline is
	canceled   bool // somebody asks for that
	settles    bool // somebody settles it from outside
	runs       time.Duration
	poison     time.Duration // after so long it kills its worker, each time; 0: never
	children   int
	cause      promise.Cause
	retry      promise.Retry
	lease      time.Duration
}

// An execution is a script that ran.
type execution struct {
	number  int
	id      string
	version uint64
	claim   promise.Nonce
	began   promise.Time
	proven  promise.Time // until when its worker can prove its lease
	running bool
}

func newLedger(w *world) ledger {
	return ledger{
		w: w, records: map[string]promise.Record{}, history: map[string][]indexing{}, plans: map[string]*plan{},
		told: map[string]promise.Record{}, settled: map[string]int{}, ended: map[string]promise.Time{},
		byReceipt: map[string]*execution{}, faults: map[string]int{},
	}
}

// breaks records that a rule is broken. The history ends with it.
func (l *ledger) breaks(format string, args ...any) {
	l.broken = append(l.broken, fmt.Sprintf("%s: %s", l.w.now.Sub(epoch), fmt.Sprintf(format, args...)))
}

// observe looks at a write that has just happened.
func (l *ledger) observe(rec promise.Record) {
	was := l.records[rec.ID]
	if was.ID == "" {
		l.order = append(l.order, rec.ID)
	}
	l.records[rec.ID] = rec
	l.history[rec.ID] = append(l.history[rec.ID], indexing{l.w.now, rec.DueAt})
	if rec.Rev != was.Rev+1 {
		l.breaks("%s: rev %d after %d", rec.ID, rec.Rev, was.Rev)
	}
	if due := promise.Due(rec); rec.DueAt > due || (due == 0) != (rec.DueAt == 0) {
		l.breaks("%s is indexed at %d and due at %d", rec.ID, rec.DueAt, due)
	}
	if rec.Task.Version < was.Task.Version || rec.Attempt < was.Attempt {
		l.breaks("%s: version %d after %d", rec.ID, rec.Task.Version, was.Task.Version)
	}
	switch {
	case rec.Protocol != nil:
		l.observeGraph(was, rec)
	case was.State.Terminal():
		l.checkSettled(was, rec)
	case rec.State.Terminal():
		l.checkSettle(was, rec)
	}
	l.w.note("stored %s rev %d %s %s v%d", rec.ID, rec.Rev, rec.State, rec.Task.State, rec.Task.Version)
}

// checkSettled: a settled promise never changes, but for its unfinished
// effects.
func (l *ledger) checkSettled(was, is promise.Record) {
	if was.Cascade && !is.Cascade {
		for _, id := range l.order {
			if strings.HasPrefix(id, is.ID+".") && !l.records[id].State.Terminal() {
				l.breaks("the cascade of %s is called done, and %s is pending", is.ID, id)
			}
		}
	}
	if !was.Cascade && is.Cascade {
		l.breaks("%s cascades again", is.ID)
	}
	if !equalBut(was, is) {
		l.breaks("%s was settled as %s and is settled again as %s", is.ID, was.State, is.State)
	}
}

// equalBut compares what can never change of a settled promise.
func equalBut(a, b promise.Record) bool {
	for _, r := range []*promise.Record{&a, &b} {
		r.Rev, r.WriteID, r.Cascade, r.DueAt = 0, promise.Nonce{}, false, 0
	}
	return reflect.DeepEqual(a, b)
}

// checkSettle looks at the write that ends a promise.
func (l *ledger) checkSettle(was, is promise.Record) {
	l.settled[is.ID]++
	l.ended[is.ID] = l.w.now
	p := l.plans[is.ID]
	if is.SettledAt > is.DeadlineAt {
		l.breaks("%s is settled after its deadline", is.ID)
	}
	switch {
	case is.State == promise.TimedOut && !p.short && !l.isWild:
		l.breaks("%s has timed out after %s", is.ID, l.w.now.Sub(is.CreatedAt))
	case is.State == promise.Canceled && !p.canceled && !l.cancelledAbove(is.ID):
		l.breaks("%s is cancelled, and nobody asked for it", is.ID)
	}
	if (is.State == promise.Canceled || is.State == promise.TimedOut) && !is.Cascade {
		l.breaks("%s is %s, and nobody will look after its descendants", is.ID, is.State)
	}
	late := l.w.now.Sub(is.DeadlineAt)
	if l.w.opt.outage == 0 && l.w.outage == (window{}) && l.w.opt.storm == 0 && !l.isWild && late > 2*time.Minute {
		l.breaks("%s ends %s after its deadline", is.ID, late)
	}
	n := int(is.Outcome.Usage.MaxRSS)
	if n == 0 {
		return // nobody's output
	}
	e := l.executions[n-1]
	if e.id != is.ID || e.version != was.Task.Version || e.claim != was.Task.ClaimID || is.Outcome.Version != e.version {
		l.breaks("%s is settled by execution %d under version %d, and held under %d", is.ID, n, e.version, was.Task.Version)
	}
}

// cancelledAbove reports whether an ancestor of id ended in a way that takes
// its descendants with it.
func (l *ledger) cancelledAbove(id string) bool {
	for i := strings.LastIndexByte(id, '.'); i > 0; i = strings.LastIndexByte(id, '.') {
		id = id[:i]
		if s := l.records[id].State; s == promise.Canceled || s == promise.TimedOut {
			return true
		}
	}
	return false
}

// begin records that a script starts. While a worker can prove its lease no
// second copy starts.
func (l *ledger) begin(rec promise.Record, receipt string, proven promise.Time) *execution {
	for _, other := range l.executions {
		if other.id == rec.ID && other.running && other.proven > l.w.now && !l.isWild {
			l.breaks("%s is started under version %d while execution %d of version %d holds its lease",
				rec.ID, rec.Task.Version, other.number, other.version)
		}
	}
	e := &execution{
		number: len(l.executions) + 1, id: rec.ID, version: rec.Task.Version, claim: rec.Task.ClaimID,
		began: l.w.now, proven: proven, running: true,
	}
	l.executions = append(l.executions, e)
	l.byReceipt[receipt] = e
	l.w.note("execution %d of %s v%d begins", e.number, e.id, e.version)
	return e
}

// stop records that a worker was told to stop a script whose promise has ended
// without it: within an extension and 10 s, unless it could not be told.
func (l *ledger) stop(j *job) {
	j.x.running = false
	late := l.w.now.Sub(l.ended[j.x.id])
	told := j.p.trouble < j.x.began && l.w.outage == (window{}) && len(l.w.bursts) == 0
	if told && late > j.rec.Task.Lease/3+10*time.Second {
		l.breaks("%s ended, and its script was stopped %s later", j.x.id, late)
	}
}

// tell records that somebody read a settled promise. What was read once is
// what is read for ever.
func (l *ledger) tell(rec promise.Record) {
	if before, ok := l.told[rec.ID]; ok && !equalBut(before, rec) {
		l.breaks("%s was told as %s and is told as %s", rec.ID, before.State, rec.State)
	}
	if !equalBut(l.records[rec.ID], rec) {
		l.breaks("%s is told as %s, and stored is %s", rec.ID, rec.State, l.records[rec.ID].State)
	}
	l.told[rec.ID] = rec
}

// content reports whether everything has ended: nobody waits, and nothing that
// was stored is pending or unfinished.
func (w *world) content() bool {
	if w.open > 0 || len(w.order) == 0 {
		return false
	}
	for _, d := range w.workers {
		if len(d.spool) > 0 {
			return false
		}
	}
	return !slices.ContainsFunc(w.order, func(id string) bool {
		rec := w.records[id]
		return !rec.State.Terminal() || promise.Due(rec) != 0
	})
}

// left says what is not done.
func (w *world) left() string {
	var out []string
	for _, id := range w.order {
		if rec := w.records[id]; !rec.State.Terminal() || promise.Due(rec) != 0 {
			out = append(out, fmt.Sprintf("%s %s task %s v%d", id, rec.State, rec.Task.State, rec.Task.Version))
		}
	}
	return fmt.Sprintf("%d clients wait; %s", w.open, strings.Join(out, ", "))
}

// checkEnd looks at the store once everything has ended.
func (w *world) checkEnd() {
	e := &engine.Engine{Store: w.memory, Queue: nil, Blobs: w.blobs, Now: func() promise.Time { return w.now }}
	w.checkFlows()
	for id, p := range w.plans {
		rec, err := w.memory.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) && !p.accepted {
			continue
		}
		if err != nil || !rec.State.Terminal() || w.settled[id] != 1 {
			w.breaks("%s was accepted: %v, is %s, was settled %d times: %v", id, p.accepted, rec.State, w.settled[id], err)
			continue
		}
		all, err := e.Attempts(ctx, rec)
		if err != nil || len(all) != int(rec.Attempt) {
			w.breaks("%s: %d attempts of %d can be read: %v", id, len(all), rec.Attempt, err)
		}
		for _, x := range w.executions {
			known := slices.ContainsFunc(all, func(a promise.Attempt) bool { return a.Version == x.version })
			if x.id == id && !known {
				w.breaks("%s ran under version %d, and the store knows of no such attempt", id, x.version)
			}
		}
	}
}

// excess is how many executions there were beyond those that the retry
// policies asked for, and how many promises.
func (w *world) excess() (executions, promises int) {
	executions = len(w.executions)
	for _, id := range w.order {
		executions -= int(w.records[id].Retries)
	}
	return executions, len(w.order)
}
