// Package sim runs everything at once over faulty ports: routers, workers and
// sweepers around the real engine and the real core, in virtual time, all of it
// decided by one seed. After every write a checker looks at what must always
// hold.
//
// Each actor is a coroutine. Only one runs at a time, and it gives way at every
// call of a port, so that a seed is a history: run twice, it is the same one,
// which the hash of its trace shows. The worker here is a compact one that
// makes the same calls as package worker, in the same order and by the same
// rules; package worker itself has goroutines and timers of its own.
package sim

import (
	"container/heap"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

const day = 24 * time.Hour

// epoch is when every history begins.
const epoch promise.Time = 1_700_000_000_000

// errLost is an answer that never came.
var errLost = errors.New("the connection was lost")

// world is one history.
type world struct {
	opt   options
	rng   *rand.Rand
	now   promise.Time // true time; processes have clocks of their own
	line  agenda
	turns uint64
	trace uint64

	memory *store.Memory
	blobs  *blob.Memory
	queue  *queueOf
	ledger
	graphs

	outage  window
	bursts  []window // of throttling
	lag     time.Duration
	workers []*daemon
	open    int // clients not yet done
	current *actor
}

// options are what tests vary.
type options struct {
	submissions int
	workflows   int           // of other programs, by the protocol; there are no submissions then
	crowd       int           // so many more, which all await the same promise
	rough       bool          // requests are late ten times as often
	horizon     time.Duration // by which everything must have ended
	calm        bool          // no faults at all
	wild        float64       // share of histories whose clocks are up to 10 min apart
	outage      time.Duration // of the store, in every history; 0: now and then a short one
	mutant      mutant
	script      func(w *world) plan // nil: as drawn
	doom        time.Duration       // after so long the first execution's worker dies
	once        bool                // what was received once is never delivered again: it is a dead letter
	storm       time.Duration       // of throttling, nearly all that is asked, in every history
	begin       time.Duration       // when the workers come
	days        int                 // how long it takes; the deadlines are of 30 days then, and people look hourly
}

type window struct{ from, to promise.Time }

func (v window) holds(t promise.Time) bool { return v.from <= t && t < v.to }

// newWorld makes a history and everybody in it.
func newWorld(seed uint64, opt options) *world {
	w := &world{
		opt: opt, rng: rand.New(rand.NewPCG(seed, 0x6d6f64756c617465)), now: epoch,
		memory: store.NewMemory(), blobs: blob.NewMemory(), trace: fnvOffset,
	}
	w.queue = &queueOf{w: w}
	w.ledger = newLedger(w)
	w.drawWeather()
	if opt.workflows > 0 {
		w.startGraphs()
	}
	for i := range 4 {
		w.workers = append(w.workers, &daemon{w: w, name: fmt.Sprint("w", i), slots: 1 + w.rng.IntN(2), program: opt.workflows > 0})
	}
	if !opt.mutant.is(noSweep) {
		for i := range 2 {
			w.startSweeper(fmt.Sprint("sweeper", i))
		}
	}
	for i := range opt.submissions {
		w.startClient(fmt.Sprint("p", i))
	}
	w.start("workers", nil, func(a *actor) {
		a.sleep(opt.begin)
		for _, d := range w.workers {
			d.start()
		}
	})
	return w
}

// drawWeather draws what befalls everybody in this history.
func (w *world) drawWeather() {
	if w.opt.calm {
		return
	}
	if w.chance(w.opt.wild) {
		w.isWild = true
	}
	switch {
	case w.opt.outage > 0:
		from := w.now.Add(time.Minute + w.upTo(4*time.Minute))
		w.outage = window{from, from.Add(w.opt.outage)}
	case w.chance(0.1):
		from := w.now.Add(w.upTo(10 * time.Minute))
		w.outage = window{from, from.Add(time.Minute + w.upTo(30*time.Minute))}
	}
	if w.chance(0.2) {
		for range 3 {
			from := w.now.Add(w.upTo(10 * time.Minute))
			w.bursts = append(w.bursts, window{from, from.Add(w.upTo(time.Minute))})
		}
	}
	if w.opt.storm > 0 {
		from := w.now.Add(time.Minute + w.upTo(4*time.Minute))
		w.bursts = []window{{from, from.Add(w.opt.storm)}}
	}
	if w.chance(0.3) {
		w.lag = w.upTo(time.Minute)
	}
}

// maxTurns is how many turns of actors a history has at most: far more than
// any that goes well.
const maxTurns = 10_000_000

// actor returns the one that is running.
func (w *world) actor() *actor { return w.current }

// run plays the history to its end: everything that was accepted is settled
// and everybody is content, a rule is broken, or the horizon is reached.
func (w *world) run() {
	end := epoch.Add(w.opt.horizon)
	for len(w.line) > 0 && len(w.broken) == 0 && !w.content() {
		e := heap.Pop(&w.line).(entry)
		if e.actor.dead || e.turn != e.actor.turn {
			continue
		}
		if e.at > end {
			w.breaks("after %s not everything has ended: %s", w.opt.horizon, w.left())
			break
		}
		if w.turns > maxTurns {
			w.breaks("time stands still: %d turns", w.turns)
			break
		}
		w.now = max(w.now, e.at)
		w.current = e.actor
		if at, alive := e.actor.next(); alive {
			w.schedule(e.actor, at)
		} else {
			e.actor.dead = true
		}
	}
	if len(w.broken) == 0 {
		w.checkEnd()
	}
	for len(w.line) > 0 { // let the coroutines go
		e := heap.Pop(&w.line).(entry)
		e.actor.kill()
	}
}

// An actor is a coroutine that lives in a process, or in none.
type actor struct {
	w    *world
	name string
	proc *process
	next func() (promise.Time, bool)
	stop func()
	give func(promise.Time) bool
	turn uint64 // of the entry that counts
	dead bool
}

// killed is what an actor panics with when its process dies.
type killed struct{}

// start makes an actor that begins now.
func (w *world) start(name string, proc *process, body func(a *actor)) *actor {
	a := &actor{w: w, name: name, proc: proc}
	a.next, a.stop = iter.Pull(func(give func(promise.Time) bool) {
		a.give = give
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					panic(r)
				}
			}
		}()
		body(a)
	})
	if proc != nil {
		proc.actors = append(proc.actors, a)
	}
	w.schedule(a, w.now)
	return a
}

// until gives way until t, and for as long as the process is frozen.
func (a *actor) until(t promise.Time) {
	for {
		if !a.give(t) {
			panic(killed{})
		}
		if a.proc == nil || a.proc.frozen <= a.w.now {
			return
		}
		t = a.proc.frozen
	}
}

func (a *actor) sleep(d time.Duration) { a.until(a.w.now.Add(max(d, 0))) }

// kill ends an actor that is not running.
func (a *actor) kill() {
	if !a.dead {
		a.dead = true
		a.stop()
	}
}

// wake brings an actor's turn forward to now.
func (a *actor) wake() { a.w.schedule(a, a.w.now) }

// agenda is the actors' turns, the earliest first, those at one time in random
// order.
type agenda []entry

type entry struct {
	at    promise.Time
	tie   uint32
	turn  uint64
	actor *actor
}

func (g agenda) Len() int { return len(g) }
func (g agenda) Less(i, j int) bool {
	if g[i].at != g[j].at {
		return g[i].at < g[j].at
	}
	if g[i].tie != g[j].tie {
		return g[i].tie < g[j].tie
	}
	return g[i].turn < g[j].turn
}
func (g agenda) Swap(i, j int) { g[i], g[j] = g[j], g[i] }
func (g *agenda) Push(x any)   { *g = append(*g, x.(entry)) }
func (g *agenda) Pop() any {
	last := (*g)[len(*g)-1]
	*g = (*g)[:len(*g)-1]
	return last
}

// schedule makes at the actor's next turn, and forgets any other.
func (w *world) schedule(a *actor, at promise.Time) {
	w.turns++
	a.turn = w.turns
	heap.Push(&w.line, entry{at: max(at, w.now), tie: w.rng.Uint32(), turn: a.turn, actor: a})
}

// A process has a clock, a network, and dies or stands still as a whole.
type process struct {
	w       *world
	name    string
	skew    time.Duration // of its clock
	frozen  promise.Time  // it stands still until then
	cut     promise.Time  // it reaches no port until then
	trouble promise.Time  // when it was last frozen or cut off
	ops     int           // calls of ports until it is killed; 0: it is not
	actors  []*actor
	dead    bool
	died    func() // called once when it has died
	fail    func(point string)
}

func (w *world) newProcess(name string) *process {
	p := &process{w: w, name: name}
	switch {
	case w.opt.calm:
	case w.isWild:
		p.skew = w.upTo(20*time.Minute) - 10*time.Minute
	default:
		p.skew = w.upTo(4*time.Second) - 2*time.Second
	}
	return p
}

// engine returns the engine as that process has it.
func (p *process) engine() *engine.Engine {
	return &engine.Engine{
		Store: storeOf{p}, Queue: queueAt{p}, Blobs: blobsOf{p.w.blobs, p},
		Now:   func() promise.Time { return p.w.now.Add(p.skew) },
		Nonce: p.w.nonce,
		Fail:  p.fail,
	}
}

// kill ends the process and all that runs in it. by is the actor that does it.
func (p *process) kill(by *actor) {
	if p.dead {
		return
	}
	p.dead = true
	suicide := false
	for _, a := range p.actors {
		if a == by {
			suicide = true
			continue
		}
		a.kill()
	}
	if p.died != nil {
		p.died()
	}
	if suicide {
		panic(killed{})
	}
}

// Chance.

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// upTo draws a duration below d.
func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *world) nonce() (n promise.Nonce) {
	if w.opt.mutant.is(noNonce) {
		return promise.Nonce{1}
	}
	for i := range 2 {
		x := w.rng.Uint64()
		for j := range 8 {
			n[8*i+j] = byte(x >> (8 * j))
		}
	}
	return n
}

// fault reports whether a fault of that kind happens now, and counts it.
func (w *world) fault(kind string, p float64) bool {
	if w.opt.calm || !w.chance(p) {
		return false
	}
	w.faults[kind]++
	return true
}

const fnvOffset = 14695981039346656037

// note adds a line to the trace.
func (w *world) note(format string, args ...any) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d ", w.trace, w.now-epoch)
	fmt.Fprintf(h, format, args...)
	w.trace = h.Sum64()
	if w.log != nil {
		fmt.Fprintf(w.log, "%9.3fs "+format+"\n", append([]any{w.now.Sub(epoch).Seconds()}, args...)...)
	}
}
