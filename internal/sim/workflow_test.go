package sim

import (
	"errors"
	"fmt"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// Here other programs execute, by the protocol: a workflow creates what it
// awaits under a fence, suspends, is resumed, begins again and finds what there
// is already, until it comes to its end. Each request goes to a router of its
// own.

// flow is a workflow and what it is going to do.
type flow struct {
	id       string
	short    bool // its deadline is
	canceled bool // somebody ends it from outside
	halted   bool // somebody stops it for a while
	ttl      time.Duration
	steps    []stage
	works    time.Duration // after them
}

// stage is what a workflow creates together, and awaits all of.
type stage struct {
	works  time.Duration // before it
	after  time.Duration // and once it is made
	pieces []piece
}

// piece is one promise of a workflow.
type piece struct {
	id    string
	kind  pieceKind
	after time.Duration // a timer's time; when people settle what is external, 0: never
}

type pieceKind uint8

const (
	local    pieceKind = iota // the workflow itself settles it
	child                     // another task
	timer                     // its deadline resolves it
	external                  // people settle it, or its deadline comes
)

// graphs is what a history of workflows has besides.
type graphs struct {
	flows    map[string]*flow
	pieces   map[string]piece
	asked    map[string][][]string // by task, what it asked to await at its version
	released map[string]uint64     // by task, the version that was to be given back
	happened map[string]int        // of what has to happen in a simulation that is worth it
}

// startGraphs makes everybody of a history of workflows.
func (w *world) startGraphs() {
	w.graphs = graphs{flows: map[string]*flow{}, pieces: map[string]piece{}, asked: map[string][][]string{}, released: map[string]uint64{}, happened: map[string]int{}}
	for i := range w.opt.workflows {
		id := fmt.Sprint("f", i)
		f := w.drawFlow(id, 1)
		switch {
		case w.chance(0.05):
			f.short = true
		case w.chance(0.05):
			f.canceled = true
		case w.chance(0.05):
			f.halted = true
		}
		w.startFlow(f)
	}
	if w.opt.crowd > 0 {
		w.startCrowd()
	}
	if w.chance(0.3) {
		w.startSchedule()
	}
}

// startCrowd has many workflows await the same promise, and one await more than
// one write takes.
func (w *world) startCrowd() {
	same := piece{id: "same", kind: external, after: 10 * time.Minute}
	w.pieces[same.id] = same
	for i := range w.opt.crowd {
		w.startFlow(&flow{id: fmt.Sprint("c", i), ttl: 30 * time.Second, steps: []stage{{pieces: []piece{same}}}})
	}
	var wide stage
	for i := range store.MaxWrites + 5 {
		wide.pieces = append(wide.pieces, piece{id: fmt.Sprint("wide.", i), kind: timer, after: 5*time.Minute + w.upTo(5*time.Minute)})
	}
	w.startFlow(&flow{id: "wide", ttl: 2 * time.Minute, steps: []stage{wide}})
}

// drawFlow draws what a workflow does, whose children have some down to depth.
func (w *world) drawFlow(id string, depth int) *flow {
	f := &flow{id: id, ttl: 10*time.Second + w.upTo(30*time.Second), works: w.upTo(5 * time.Second)}
	w.flows[id] = f
	for s := range w.rng.IntN(4) {
		step := stage{works: w.upTo(5 * time.Second), after: w.upTo(5 * time.Second)}
		if w.chance(0.05) {
			step.works = w.upTo(time.Minute)
		}
		for i := range 1 + w.rng.IntN(3) {
			p := w.drawPiece(fmt.Sprintf("%s.%d-%d", id, s, i), depth)
			w.pieces[p.id] = p
			step.pieces = append(step.pieces, p)
		}
		f.steps = append(f.steps, step)
	}
	return f
}

func (w *world) drawPiece(id string, depth int) piece {
	p := piece{id: id, kind: pieceKind(w.rng.IntN(4))}
	switch {
	case p.kind == timer:
		p.after = 5*time.Second + w.upTo(5*time.Minute)
	case p.kind == child && depth == 0:
		p.kind = local
	case p.kind == child:
		w.drawFlow(id, depth-1)
	case p.kind == external && w.chance(0.85):
		p.after = 1 + w.upTo(2*time.Minute)
	}
	return p
}

// deadline is that of a piece which is created now.
func (p piece) deadline(now promise.Time) promise.Time {
	switch {
	case p.kind == timer:
		return now.Add(p.after)
	case p.kind == external && p.after == 0:
		return now.Add(4 * time.Minute)
	default:
		return now.Add(2 * time.Hour)
	}
}

// remote is a promise of the protocol's, with a task if it is one's.
func remote(id string, deadline promise.Time, by string, tags ...string) promise.Record {
	p := promise.Protocol{Tags: map[string]string{}, Param: promise.Value{Data: by}}
	for i := 0; i < len(tags); i += 2 {
		p.Tags[tags[i]] = tags[i+1]
	}
	return promise.NewRemote("local", id, deadline, p)
}

const anybody = "poll://any@g"

// record is the piece as it is created under the fence of a task.
func (p piece) record(now promise.Time, by string) promise.Record {
	switch p.kind {
	case child:
		return remote(p.id, p.deadline(now), by, promise.TagTarget, anybody)
	case timer:
		return remote(p.id, p.deadline(now), by, promise.TagTimer, "true")
	default:
		return remote(p.id, p.deadline(now), by)
	}
}

// ask is a request to a router. It may be on its way for so long that whoever
// asked asks again meanwhile.
func (w *world) ask(do func(e *engine.Engine) (promise.Record, error)) (rec promise.Record, err error) {
	often := 0.03
	if w.opt.rough {
		often = 0.3
	}
	if w.fault("request_late", often) {
		at := w.now.Add(w.upTo(time.Second))
		w.start("late request", nil, func(a *actor) {
			a.until(at)
			_ = w.request(func(e *engine.Engine) error { _, err := do(e); return err })
		})
		return rec, errLost
	}
	err = w.request(func(e *engine.Engine) (err error) {
		rec, err = do(e)
		return err
	})
	return rec, err
}

// apply asks for an event until there is an answer.
func (w *world) apply(a *actor, id string, ev promise.Event) (err error) {
	w.insist(a, func() error {
		_, err = w.ask(func(e *engine.Engine) (promise.Record, error) { return e.Apply(ctx, id, ev) })
		return err
	})
	return err
}

// startFlow makes somebody who calls a workflow and waits for its end.
func (w *world) startFlow(f *flow) {
	w.flows[f.id] = f
	w.open++
	begin := w.upTo(5 * time.Minute)
	w.start("caller of "+f.id, nil, func(a *actor) {
		a.sleep(begin)
		w.insist(a, func() error {
			_, err := w.ask(func(e *engine.Engine) (promise.Record, error) {
				deadline := e.Time().Add(3 * time.Hour)
				if f.short {
					deadline = e.Time().Add(time.Minute)
				}
				return e.Create(ctx, remote(f.id, deadline, "", promise.TagTarget, anybody), nil)
			})
			return err
		})
		switch {
		case f.canceled:
			a.sleep(w.upTo(time.Minute))
			_ = w.apply(a, f.id, promise.Settle{State: promise.Canceled, SettleID: w.nonce()})
		case f.halted:
			a.sleep(w.upTo(time.Minute))
			if w.apply(a, f.id, promise.Halt{}) == nil {
				a.sleep(w.upTo(3 * time.Minute))
				_ = w.apply(a, f.id, promise.Continue{})
			}
		}
		w.await(a, f.id)
		w.open--
	})
}

// startPeople makes somebody who settles what is external.
func (w *world) startPeople(p piece) {
	w.open++
	w.start("people of "+p.id, nil, func(a *actor) {
		a.sleep(p.after)
		_ = w.apply(a, p.id, promise.Settle{State: promise.Resolved, SettleID: w.nonce()})
		w.open--
	})
}

// startSchedule makes somebody who has a workflow run each minute, for a while.
func (w *world) startSchedule() {
	w.open++
	begin := w.upTo(5 * time.Minute)
	w.start("schedule", nil, func(a *actor) {
		a.sleep(begin)
		rec := promise.NewSchedule("local", promise.Schedule{
			ID: "s", Cron: "* * * * *", PromiseID: "run-{{.timestamp}}", Timeout: time.Hour.Milliseconds(),
			Tags: map[string]string{promise.TagTarget: anybody},
		})
		w.insist(a, func() error {
			_, err := w.ask(func(e *engine.Engine) (promise.Record, error) { return e.Create(ctx, rec, nil) })
			return err
		})
		a.sleep(2*time.Minute + w.upTo(8*time.Minute))
		_ = w.apply(a, rec.ID, promise.Settle{State: promise.Canceled, SettleID: w.nonce()})
		w.open--
	})
}

// answered reports whether err is an answer of the protocol's, perhaps no.
func answered(err error) bool {
	return known(err) || errors.Is(err, promise.ErrReady) || errors.Is(err, engine.ErrAwaited)
}
