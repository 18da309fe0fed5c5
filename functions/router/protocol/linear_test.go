package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"modulate/internal/blob"
	"modulate/internal/emulator"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

var full = flag.Bool("full", false, "check 200 histories of 200 requests a client over each store")

// TestLinearizable: what 8 concurrent clients are answered about call graphs of
// a workflow, a child and a timer is what they would be one after the other.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	linearizable(t, newFile(t), 200)
}

// TestLinearizableOnDynamoDB is TestLinearizable over an emulator; `make gates`
// checks 200 histories in full length.
func TestLinearizableOnDynamoDB(t *testing.T) {
	t.Parallel()
	linearizable(t, newTable(t, emulator.DynamoDB(t)), 5)
}

// linearizable checks histories of 50 requests a client, or in full length.
func linearizable(t *testing.T, s debugged, histories int) {
	each := 50
	switch {
	case *full:
		each, histories = 200, 200
	case watched, testing.Short():
		histories = min(histories, 10)
	}
	w := &watcher{debugged: s}
	total := map[string]int{}
	for h := range histories {
		r := &race{t: t, store: w, name: fmt.Sprint("h", h, "-"), known: map[string]graph{}}
		history := r.run(uint64(h), each)
		if t.Failed() {
			return
		}
		if result := porcupine.CheckOperationsTimeout(w.model(), history, time.Minute); result != porcupine.Ok {
			t.Fatalf("history %d is %s", h, result)
		}
		for _, op := range history {
			total[fmt.Sprint(op.Input.(ask).kind, " ", op.Output.(told).status)]++
		}
	}
	t.Logf("%d histories of 8 clients, %d requests each: %v", histories, each, total)
}

// A watcher sees which ends are stored without those whom they resume, as
// [promise.Later] has it.
type watcher struct {
	debugged
	late sync.Map // ids
}

// Replace implements [store.Store].
func (w *watcher) Replace(ctx context.Context, next promise.Record) error {
	err := w.debugged.Replace(ctx, next)
	if err == nil && next.State.Terminal() && len(next.Protocol.Callbacks) > 0 {
		w.late.Store(next.ID, true)
	}
	return err
}

// model is a call graph, by its name.
func (w *watcher) model() porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			number := map[string]int{}
			for _, op := range history {
				name := op.Input.(ask).graph
				n, known := number[name]
				if !known {
					n, parts = len(parts), append(parts, nil)
					number[name] = n
				}
				parts[n] = append(parts[n], op)
			}
			return parts
		},
		Init: func() []any { return []any{graph{}} },
		Step: func(state, input, output any) []any {
			was, a, got := state.(graph), input.(ask), output.(told)
			next, want := was.follow(a, func(n int) bool {
				_, late := w.late.Load(a.id(n))
				return late
			})
			switch {
			case a.kind == "look" && next != was: // perhaps it did not come to that
				return []any{was, next}
			case a.kind == "look" || got.status == 503: // it gave way to others, and nothing was done
				return []any{was}
			case got == want:
				return []any{next}
			}
			return nil
		},
	}).ToModel()
}

// id is the id of node n.
func (a ask) id(n int) string { return a.graph + []string{"", ".1", ".2"}[n] }

// A race is one history.
type race struct {
	t     *testing.T
	store debugged
	name  string
	asked atomic.Int64

	mu      sync.Mutex
	known   map[string]graph // as the latest answers had them, more or less
	history []porcupine.Operation
}

// A graph is what so many requests are about, and so far apart are they by the
// clients' clock, in milliseconds.
const (
	perGraph = 60
	beat     = 250
)

// run has 8 clients ask so many times each.
func (r *race) run(seed uint64, each int) []porcupine.Operation {
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			c := &racer{race: r, Rand: rand.New(rand.NewPCG(seed, uint64(n))), pid: fmt.Sprint("w", n)}
			c.engine = &engine.Engine{
				Store: r.store, Queue: queue.NewMemory(), Blobs: blob.NewMemory(), Now: func() promise.Time { return promise.Time(c.now) },
			}
			c.client = client{t: r.t, door: New(Config{Engine: c.engine, Search: r.store})}
			for range each {
				c.once()
			}
		})
	}
	all.Wait()
	return r.history
}

// A racer is one client, with a router of its own.
type racer struct {
	*race
	*rand.Rand
	client
	engine *engine.Engine
	pid    string
}

// once asks once, and takes down what it was answered.
func (c *racer) once() {
	a := c.next(c.asked.Add(1) - 1)
	c.now = a.now
	call := time.Now().UnixNano()
	got := c.tell(a)
	returned := time.Now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learn(a, got)
	note := func(a ask, got told) {
		c.history = append(c.history, porcupine.Operation{Input: a, Call: call, Output: got, Return: returned})
	}
	note(a, got)
	for n := range (graph{}) {
		if a.others().has(n) && a.now >= a.deadline(n) {
			note(ask{kind: "look", graph: a.graph, n: n, now: a.now, begin: a.begin}, told{})
		}
	}
}

// next is the request of that number: mostly one that could succeed as far as is
// known.
func (c *racer) next(number int64) ask {
	const epoch = 1_700_000_000_000
	g := number / perGraph
	a := ask{
		graph: fmt.Sprint(c.name, g), begin: epoch + g*perGraph*beat, now: epoch + number*beat,
		n: c.IntN(3), pid: c.pid, value: fmt.Sprint(number), state: []string{"resolved", "rejected", "rejected_canceled"}[c.IntN(3)],
	}
	c.mu.Lock()
	known := c.known[a.graph]
	c.mu.Unlock()
	if !known[a.n].there {
		a.kind = "promise.create"
		if a.n == 0 && c.IntN(2) == 0 {
			a.kind = "task.create"
		}
		return a
	}
	if a.n == timer {
		a.kind = pickOf(c, "promise.get", "promise.get", "tick", "promise.settle")
		if a.kind == "promise.settle" && c.IntN(4) > 0 {
			a.n = 0
		} else {
			return a
		}
	}
	a.version = known[a.n].version
	if c.IntN(10) == 0 {
		a.version += uint64(c.IntN(2))
	}
	c.ofTask(&a, known[a.n])
	return a
}

func pickOf[E any](c *racer, of ...E) E { return of[c.IntN(len(of))] }

// ofTask picks a request about a task.
func (c *racer) ofTask(a *ask, known node) {
	others := []int{1, 2}
	if a.n == 1 {
		others = []int{0, 2}
	}
	a.m = pickOf(c, others...)
	switch known.task {
	case "acquired":
		a.kind = pickOf(c, "task.suspend", "task.suspend", "task.suspend", "task.fence", "task.fence", "task.fence", "task.heartbeat", "task.release", "tick", "task.get", "task.fulfill")
		if a.kind == "task.fulfill" && c.IntN(4) > 0 {
			a.kind = "task.heartbeat"
		}
	case "suspended":
		a.kind = pickOf(c, "promise.settle", "promise.settle", "tick", "promise.register_callback", "task.get", "task.acquire", "task.halt", "task.heartbeat")
		if a.kind == "promise.settle" && (c.IntN(8) > 0 || a.n == 1) {
			a.n, a.m = a.m, a.n
		}
	case "halted":
		a.kind = pickOf(c, "task.continue", "task.get", "task.acquire")
	default:
		a.kind = pickOf(c, "task.acquire", "task.acquire", "task.acquire", "task.get", "promise.get", "task.create", "promise.register_callback", "tick")
	}
	switch a.kind {
	case "task.suspend":
		a.awaits = one(a.m)
		if c.IntN(3) == 0 {
			a.awaits = one(others[0]) | one(others[1])
		}
	case "task.fence":
		a.inner = pickOf(c, "promise.create", "promise.create", "promise.settle")
	case "promise.register_callback":
		a.n, a.m = a.m, a.n
	}
}

// learn remembers what an answer says of tasks.
func (c *racer) learn(a ask, got told) {
	g := c.known[a.graph]
	p := &g[a.n]
	if got.status != 404 && got.status != 503 {
		p.there = true
	}
	if got.task.state != "" && got.task.version >= p.version {
		p.task, p.version = got.task.state, got.task.version
	}
	switch {
	case got.status != 200:
	case a.kind == "task.suspend":
		p.task = "suspended"
	case a.kind == "task.halt":
		p.task = "halted"
	case a.kind == "task.release", a.kind == "task.continue":
		p.task = "pending"
	case a.kind == "task.fence" && got.inner == 200:
		g[a.m].there = true
	case a.kind == "promise.settle":
		for n := range g { // perhaps
			if g[n].task == "suspended" {
				g[n].task = "pending"
			}
		}
	}
	c.known[a.graph] = g
}

// tell asks a router, or has time pass as the sweeper does.
func (c *racer) tell(a ask) (got told) {
	if a.kind == "tick" {
		rec, err := c.engine.Apply(c.race.t.Context(), a.id(a.n), promise.Tick{})
		switch {
		case errors.Is(err, promise.ErrNotFound):
			return told{status: 404}
		case errors.Is(err, store.ErrThrottled):
			return told{status: 503}
		case err != nil:
			c.race.t.Error(err)
		}
		got.status = 200
		got.promise.of(view(rec))
		if rec.Task.State != promise.TaskNone {
			got.task.of(taskOf(rec))
		}
		return got
	}
	status, body := c.post(a.kind, a.data())
	var in struct {
		Promise *promiseView
		Task    *taskView
		Action  *struct {
			Head answerHead
			Data json.RawMessage
		}
	}
	got.status = status
	if status >= 400 {
		return got // a sentence
	}
	if err := json.Unmarshal(body, &in); err != nil {
		c.race.t.Error(err)
	}
	if in.Action != nil {
		if got.inner = in.Action.Head.Status; got.inner == 200 {
			if err := json.Unmarshal(in.Action.Data, &in); err != nil {
				c.race.t.Error(err)
			}
		}
	}
	if in.Promise != nil {
		got.promise.of(*in.Promise)
	}
	if in.Task != nil {
		got.task.of(*in.Task)
	}
	return got
}

// data is the request on the wire.
func (a ask) data() object {
	data := object{"id": a.id(a.n), "version": a.version, "pid": a.pid, "ttl": ttl}
	switch a.kind {
	case "promise.create":
		return a.creates(a.n)
	case "promise.settle":
		return a.settles(a.n)
	case "promise.register_callback":
		return object{"awaited": a.id(a.n), "awaiter": a.id(a.m)}
	case "task.create":
		data["action"] = action1("promise.create", a.creates(a.n))
	case "task.fulfill":
		data["action"] = action1("promise.settle", a.settles(a.n))
	case "task.heartbeat":
		data["tasks"] = []object{{"id": a.id(a.n), "version": a.version}}
	case "task.suspend":
		var actions []object
		for n := range (graph{}) {
			if a.awaits.has(n) {
				actions = append(actions, action1("promise.register_callback", object{"awaited": a.id(n), "awaiter": a.id(a.n)}))
			}
		}
		data["actions"] = actions
	case "task.fence":
		data["action"] = action1(a.inner, a.settles(a.m))
		if a.inner == "promise.create" {
			data["action"] = action1(a.inner, a.creates(a.m))
		}
	}
	return data
}

func (a ask) creates(n int) object {
	tags := object{promise.TagTarget: "poll://any@g"}
	if n == timer {
		tags = object{promise.TagTimer: "true"}
	}
	return object{"id": a.id(n), "timeoutAt": a.deadline(n), "tags": tags}
}

func (a ask) settles(n int) object {
	return object{"id": a.id(n), "state": a.state, "value": object{"data": a.value}}
}
