package protocol

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"modulate/internal/promise"
)

// taskRef names a task, and mostly its version.
type taskRef struct {
	ID      *string `json:"id"`
	Version *int64  `json:"version"`
}

func (n taskRef) check() (id string, version uint64, err error) {
	if id, err = ident("id", n.ID); err != nil {
		return "", 0, err
	}
	if n.Version == nil || *n.Version < 0 {
		return "", 0, invalid("Invalid data: version must be a number from 0 on")
	}
	return id, uint64(*n.Version), nil
}

// lease is who takes a task, and for how long.
type lease struct {
	PID *string `json:"pid"`
	TTL *int64  `json:"ttl"`
}

const (
	maxTTL = 24 * 60 * 60 * 1000 // milliseconds, the longest lease: a day
	maxPID = 1000                // bytes of a worker's name
)

func (n lease) check() (pid string, ttl time.Duration, err error) {
	if n.PID == nil || *n.PID == "" || len(*n.PID) > maxPID {
		return "", 0, invalid("Invalid data: pid must have 1 to %d bytes", maxPID)
	}
	if n.TTL == nil || *n.TTL < 1 {
		return "", 0, invalid("Invalid data: ttl must be milliseconds from 1 on")
	}
	return *n.PID, time.Duration(min(*n.TTL, maxTTL)) * time.Millisecond, nil
}

// action is a request within a request.
type action struct {
	Kind *string          `json:"kind"`
	Head *json.RawMessage `json:"head"`
	Data json.RawMessage  `json:"data"`
}

func (n *action) check() error {
	if n == nil || n.Kind == nil || n.Head == nil || len(n.Data) == 0 || n.Data[0] != '{' {
		return invalid("Invalid data: an action needs kind, head and data")
	}
	return nil
}

// task returns the caller's task with that id: one of another program, for
// scripts are their machine's.
func (c *call) task(id string) (promise.Record, error) {
	rec, err := c.own(id)
	switch {
	case err == nil && rec.Task.State == promise.TaskNone:
		return rec, promise.ErrNotFound
	case err == nil && isScript(rec):
		return rec, fail(http.StatusConflict, "%s is a script, whose machine executes it", promise.DecodeID(id))
	}
	return rec, err
}

// work returns a task for who executes it: a worker that does so for every owner
// makes the call from now on in the name of the task's, as a script's are.
func (c *call) work(id string) (promise.Record, error) {
	if c.worker {
		rec, err := c.engine.Get(c.ctx, id)
		if err != nil {
			return rec, err
		}
		c.owner = rec.Owner
	}
	return c.task(id)
}

// step applies an event to a task for who executes it.
func (c *call) step(id string, ev promise.Event) (promise.Record, error) {
	rec, err := c.work(id)
	if err != nil {
		return rec, err
	}
	return c.engine.Step(c.ctx, rec, ev)
}

// left tells the delivery that a task is held no longer.
func (c *call) left(rec promise.Record) {
	if c.Delivery == nil || rec.Task.State == promise.TaskNone || isScript(rec) {
		return
	}
	version := rec.Task.Version
	if rec.State.Terminal() {
		version = math.MaxUint64
	}
	c.Delivery.Left(rec.ID, version)
}

func (c *call) taskGet() (reply, error) {
	var in taskRef
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, err := ident("id", in.ID)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.own(id)
	if err == nil && rec.Task.State == promise.TaskNone {
		err = promise.ErrNotFound
	}
	return reply{data: map[string]any{"task": taskOf(rec)}}, err
}

// grant is the answer to who took a task.
type grant struct {
	Task    taskView      `json:"task"`
	Promise promiseView   `json:"promise"`
	Preload []promiseView `json:"preload"`
}

// granted answers who took a task.
func (c *call) granted(rec promise.Record) (reply, error) {
	if c.Delivery != nil && rec.Task.State == promise.TaskAcquired {
		c.Delivery.Acquired(rec.ID, rec.Task.Version, rec.Task.Worker, rec.Task.Lease)
	}
	preload, err := c.preload(rec)
	return reply{data: grant{taskOf(rec), view(rec), preload}}, err
}

// preloaded is the most promises that an answer brings along.
const preloaded = 200

// preload returns the other promises of the task's branch, which its worker may
// keep and so need not ask for. There are none before it was held once.
func (c *call) preload(rec promise.Record) ([]promiseView, error) {
	found := []promiseView{}
	branch := rec.Tag(promise.TagBranch)
	if branch == "" || rec.Attempt < 2 {
		return found, nil
	}
	below, err := c.engine.Store.Children(c.ctx, promise.EncodeID(branch), "", preloaded)
	if err != nil {
		return nil, err
	}
	bytes := weight(rec)
	for _, p := range below {
		if bytes += weight(p); bytes > enough {
			break
		}
		if p.Tag(promise.TagBranch) == branch && p.ID != rec.ID && p.Owner == c.owner {
			if p, err = c.engine.Step(c.ctx, p, promise.View{}); err != nil {
				return nil, err
			}
			found = append(found, view(p))
		}
	}
	return found, nil
}

func (c *call) taskCreate() (reply, error) {
	var in struct {
		lease
		Action *action `json:"action"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	pid, ttl, err := in.lease.check()
	if err != nil {
		return reply{}, err
	}
	if err := in.Action.check(); err != nil {
		return reply{}, err
	}
	var n newPromise
	if err := read(in.Action.Data, &n); err != nil {
		return reply{}, err
	}
	draft, err := c.draft(n)
	if err != nil {
		return reply{}, err
	}
	if draft.Tag(promise.TagTarget) == "" || draft.Tag(promise.TagDelay) != "" {
		return reply{}, invalid("task.create needs %s and no %s", promise.TagTarget, promise.TagDelay)
	}
	rec, err := c.engine.CreateTaken(c.ctx, promise.Create{Record: draft, Worker: pid, Lease: ttl})
	if errors.Is(err, promise.ErrExists) {
		rec, err = c.takeExisting(rec, pid, ttl)
	}
	if err != nil {
		return reply{}, err
	}
	return c.granted(rec)
}

// takeExisting takes the task of a promise that was there already, if nobody
// has it. That of one that has ended shows its end.
func (c *call) takeExisting(rec promise.Record, pid string, ttl time.Duration) (promise.Record, error) {
	rec, err := c.taken(rec)
	switch {
	case err != nil:
		return rec, err
	case rec.Task.State == promise.TaskNone:
		return rec, fail(http.StatusUnprocessableEntity, "The promise exists, without a task")
	case isScript(rec):
		return rec, fail(http.StatusConflict, "Already exists, as a script")
	}
	rec, err = c.engine.Step(c.ctx, rec, promise.Acquire{Latest: true, Worker: pid, Lease: ttl})
	if errors.Is(err, promise.ErrSettled) {
		return rec, nil
	}
	if errors.Is(err, promise.ErrState) {
		return rec, fail(http.StatusConflict, "Already exists")
	}
	return rec, err
}

func (c *call) taskAcquire() (reply, error) {
	var in struct {
		taskRef
		lease
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, version, err := in.taskRef.check()
	if err != nil {
		return reply{}, err
	}
	pid, ttl, err := in.lease.check()
	if err != nil {
		return reply{}, err
	}
	rec, err := c.step(id, promise.Acquire{Version: version, Worker: pid, Lease: ttl})
	if err != nil {
		return reply{}, err
	}
	return c.granted(rec)
}

func (c *call) taskRelease() (reply, error) {
	return c.simple(func(version uint64) promise.Event { return promise.Release{Version: version} })
}

// simple does what needs an id and a version, and answers nothing.
func (c *call) simple(ev func(version uint64) promise.Event) (reply, error) {
	var in taskRef
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, version, err := in.check()
	if err != nil {
		return reply{}, err
	}
	rec, err := c.step(id, ev(version))
	if err == nil {
		c.left(rec)
	}
	return empty, err
}

func (c *call) taskHalt() (reply, error)     { return c.anyVersion(promise.Halt{}) }
func (c *call) taskContinue() (reply, error) { return c.anyVersion(promise.Continue{}) }

func (c *call) anyVersion(ev promise.Event) (reply, error) {
	var in taskRef
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, err := ident("id", in.ID)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.task(id)
	if err != nil {
		return reply{}, err
	}
	_, err = c.engine.Step(c.ctx, rec, ev)
	return empty, err
}

// underTask reads what is to be done, and the task under which.
func (c *call) underTask() (id string, version uint64, a *action, err error) {
	var in struct {
		taskRef
		Action *action `json:"action"`
	}
	if err := read(c.data, &in); err != nil {
		return "", 0, nil, err
	}
	if id, version, err = in.taskRef.check(); err != nil {
		return "", 0, nil, err
	}
	return id, version, in.Action, in.Action.check()
}

func (c *call) taskFulfill() (reply, error) {
	id, version, action, err := c.underTask()
	if err != nil {
		return reply{}, err
	}
	var end settlement
	if err := read(action.Data, &end); err != nil {
		return reply{}, err
	}
	ended, state, err := end.check()
	if err != nil {
		return reply{}, err
	}
	if ended != id {
		return reply{}, invalid("The action's id is not the task's")
	}
	rec, err := c.step(id, promise.Complete{Version: version, State: state, Value: end.Value.stored()})
	if err != nil {
		return reply{}, err
	}
	c.left(rec)
	return reply{data: promiseReply{view(rec)}}, nil
}

func (c *call) taskSuspend() (reply, error) {
	var in struct {
		taskRef
		Actions []action `json:"actions"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, version, err := in.taskRef.check()
	if err != nil {
		return reply{}, err
	}
	awaits, err := awaitsOf(id, in.Actions)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.work(id)
	if err != nil {
		return reply{}, err
	}
	if err := c.checkOrigins(rec, version, awaits); err != nil {
		return reply{}, err
	}
	rec, err = c.engine.Suspend(c.ctx, id, promise.Suspend{Version: version, Awaits: awaits})
	if errors.Is(err, promise.ErrReady) {
		preload, err := c.preload(rec)
		return reply{http.StatusMultipleChoices, map[string]any{"preload": preload}}, err
	}
	if err == nil {
		c.left(rec)
	}
	return empty, err
}

// awaitsOf reads what a task is to await.
func awaitsOf(id string, actions []action) (awaits []string, err error) {
	if len(actions) == 0 {
		return nil, invalid("Invalid data: actions is empty")
	}
	for _, a := range actions {
		if err := a.check(); err != nil {
			return nil, err
		}
		var in callback
		if err := read(a.Data, &in); err != nil {
			return nil, err
		}
		awaited, awaiter, err := in.check()
		if err != nil {
			return nil, err
		}
		if awaiter != id || awaited == id {
			return nil, invalid("A task suspends itself, and not on itself")
		}
		awaits = append(awaits, awaited)
	}
	return awaits, nil
}

// holds refuses who does not hold the task at that version.
func (c *call) holds(task promise.Record, version uint64) error {
	_, _, err := promise.Step(task, promise.Fence{Version: version}, c.engine.Time())
	return err
}

// related reports whether awaiter may await p: both are of one call graph, by
// their tags or, where p begins one of its own below it, by its id.
func related(awaiter, p promise.Record) bool {
	origin, id := awaiter.Origin(), promise.DecodeID(p.ID)
	return p.Origin() == origin || strings.HasPrefix(id, origin+".") || strings.HasPrefix(id, origin+":")
}

// checkOrigins refuses to await what is of another call graph. Who does not
// hold the task hears of that first.
func (c *call) checkOrigins(rec promise.Record, version uint64, awaits []string) error {
	if err := c.holds(rec, version); err != nil {
		return err
	}
	for _, id := range awaits {
		p, err := c.own(id)
		if errors.Is(err, promise.ErrNotFound) {
			return fail(http.StatusUnprocessableEntity, "Awaited promise %s not found", promise.DecodeID(id))
		}
		if err != nil {
			return err
		}
		if !related(rec, p) {
			return invalid("%s is of another origin", promise.DecodeID(id))
		}
	}
	return nil
}
