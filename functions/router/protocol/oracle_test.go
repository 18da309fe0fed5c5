package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
)

// oracle is the protocol over a map: each request is one or a few calls of
// promise.Step, with no engine and no store in between.
type oracle struct {
	recs  map[string]promise.Record
	debug Debug
	now   promise.Time
}

// step applies an event and everything that belongs to it.
func (o *oracle) step(id string, ev promise.Event) (promise.Record, error) {
	next, effects, err := promise.Step(o.recs[id], ev, o.now)
	if next.ID != "" {
		o.recs[next.ID] = next
	}
	for _, eff := range effects {
		switch eff := eff.(type) {
		case promise.Send:
			outbox{debug: &o.debug}.Send(context.Background(), eff.Machine, queue.Encode(eff.ID, eff.Version), 0)
		case promise.Notify:
			o.debug.notify(eff.ID, eff.Address)
		case promise.ResumeAwaiter:
			o.step(eff.Awaiter, promise.Resume{Awaited: eff.Awaited})
		case promise.Fire:
			rec := o.recs[eff.ID].Run(eff.At)
			if o.recs[rec.ID].ID == "" {
				o.step(rec.ID, promise.Create{Record: rec})
			}
			o.step(eff.ID, promise.Fired{At: eff.At})
		}
	}
	return o.recs[id], err
}

// look is a promise as it is now.
func (o *oracle) look(id string) (promise.Record, bool) {
	rec, err := o.step(id, promise.View{})
	return rec, err == nil
}

// do answers a request.
func (o *oracle) do(kind string, data map[string]any) (int, any) {
	b, _ := json.Marshal(data)
	var in struct {
		ID, Awaited, Awaiter, Address *string
		Version                       uint64
		PID                           string
		TTL                           int64
		State                         string
		Tasks                         []taskRef
		Actions                       []action
		Action                        *action
		Time                          int64
	}
	if err := json.Unmarshal(b, &in); err != nil {
		panic(err)
	}
	id := ""
	if in.ID != nil {
		id = *in.ID
	}
	ttl := time.Duration(in.TTL) * time.Millisecond
	switch kind {
	case "promise.get":
		if rec, ok := o.look(id); ok {
			return 200, promiseReply{view(rec)}
		}
		return 404, nil
	case "promise.create":
		return 200, promiseReply{view(o.create(b, promise.Create{}))}
	case "promise.settle":
		if _, ok := o.look(id); !ok {
			return 404, nil
		}
		return 200, promiseReply{view(o.settle(b))}
	case "promise.register_callback":
		return o.callback(*in.Awaited, *in.Awaiter)
	case "promise.register_listener":
		if _, ok := o.look(*in.Awaited); !ok {
			return 404, nil
		}
		rec, _ := o.step(*in.Awaited, promise.Listen{Address: *in.Address})
		return 200, promiseReply{view(rec)}
	case "debug.tick":
		o.tick(promise.Time(in.Time))
		return 200, []any{}
	case "task.create":
		return o.take(in.Action.Data, in.PID, ttl)
	case "task.heartbeat":
		for _, n := range in.Tasks {
			o.look(*n.ID)
			o.step(*n.ID, promise.Heartbeat{Version: uint64(*n.Version), Worker: in.PID})
		}
		return 200, struct{}{}
	}
	if malformed(id, kind, in.Action, in.Actions) {
		return 400, nil
	}
	rec, ok := o.look(id)
	if !ok || rec.Task.State == promise.TaskNone {
		return 404, nil
	}
	var err error
	switch kind {
	case "task.get":
		return 200, map[string]any{"task": taskOf(rec)}
	case "task.acquire":
		if rec, err = o.step(id, promise.Acquire{Version: in.Version, Worker: in.PID, Lease: ttl}); err == nil {
			return 200, o.granted(rec)
		}
	case "task.release":
		_, err = o.step(id, promise.Release{Version: in.Version})
	case "task.halt":
		_, err = o.step(id, promise.Halt{})
	case "task.continue":
		_, err = o.step(id, promise.Continue{})
	case "task.fulfill":
		var end settlement
		json.Unmarshal(in.Action.Data, &end)
		state, _ := promise.ParseState(*end.State)
		if rec, err = o.step(id, promise.Complete{Version: in.Version, State: state, Value: end.Value.stored()}); err == nil {
			return 200, promiseReply{view(rec)}
		}
	case "task.suspend":
		return o.suspend(id, in.Version, in.Actions)
	case "task.fence":
		return o.fence(id, in.Version, in.Action)
	}
	if err != nil {
		return 409, nil
	}
	return 200, struct{}{}
}

// malformed reports whether a request about a task contradicts itself.
func malformed(id, kind string, a *action, all []action) bool {
	var of taskRef
	if kind == "task.fence" {
		json.Unmarshal(a.Data, &of)
		return *of.ID == id
	}
	for _, a := range all {
		var n callback
		json.Unmarshal(a.Data, &n)
		if *n.Awaiter != id || *n.Awaited == id {
			return true
		}
	}
	return false
}

// create makes the promise of data unless it is there.
func (o *oracle) create(data []byte, ev promise.Create) promise.Record {
	var n newPromise
	json.Unmarshal(data, &n)
	if rec, ok := o.look(*n.ID); ok {
		return rec
	}
	ev.Record = promise.NewRemote("local", *n.ID, promise.Time(*n.TimeoutAt), promise.Protocol{Param: n.Param.stored(), Tags: n.Tags, Exact: true})
	rec, _ := o.step(*n.ID, ev)
	return rec
}

func (o *oracle) settle(data []byte) promise.Record {
	var n settlement
	json.Unmarshal(data, &n)
	state, _ := promise.ParseState(*n.State)
	rec, _ := o.step(*n.ID, promise.Settle{State: state, Value: n.Value.stored()})
	return rec
}

func (o *oracle) callback(awaited, awaiter string) (int, any) {
	if awaited == awaiter {
		return 400, nil
	}
	p, ok := o.look(awaited)
	if !ok {
		return 404, nil
	}
	a, ok := o.look(awaiter)
	switch {
	case !ok || a.Task.State == promise.TaskNone:
		return 422, nil
	case promise.OriginOf(awaited) != promise.OriginOf(awaiter):
		return 400, nil
	}
	if a.State == promise.Pending {
		p, _ = o.step(awaited, promise.Await{Awaiter: awaiter})
	}
	return 200, promiseReply{view(p)}
}

func (o *oracle) take(data []byte, pid string, ttl time.Duration) (int, any) {
	var n newPromise
	json.Unmarshal(data, &n)
	rec, ok := o.look(*n.ID)
	if !ok {
		return 200, o.granted(o.create(data, promise.Create{Worker: pid, Lease: ttl}))
	}
	switch rec.Task.State {
	case promise.TaskNone:
		return 422, nil
	case promise.TaskFulfilled:
		return 200, o.granted(rec)
	case promise.TaskPending:
		rec, _ = o.step(*n.ID, promise.Acquire{Latest: true, Worker: pid, Lease: ttl})
		return 200, o.granted(rec)
	}
	return 409, nil
}

func (o *oracle) granted(rec promise.Record) any {
	return grant{taskOf(rec), view(rec), o.preload(rec)}
}

func (o *oracle) preload(rec promise.Record) []promiseView {
	views := []promiseView{}
	branch := rec.Tag(promise.TagBranch)
	if branch == "" || rec.Attempt < 2 {
		return views
	}
	for _, id := range o.ids() {
		if p := o.recs[id]; id != rec.ID && p.Tag(promise.TagBranch) == branch && (strings.HasPrefix(id, branch+".") || strings.HasPrefix(id, branch+":")) {
			p, _ = o.look(id)
			views = append(views, view(p))
		}
	}
	return views
}

func (o *oracle) ids() (ids []string) {
	for id := range o.recs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (o *oracle) suspend(id string, version uint64, actions []action) (int, any) {
	ev := promise.Suspend{Version: version}
	for _, a := range actions {
		var n callback
		json.Unmarshal(a.Data, &n)
		ev.Awaits = append(ev.Awaits, *n.Awaited)
	}
	if _, _, err := promise.Step(o.recs[id], promise.Fence{Version: version}, o.now); err != nil {
		return 409, nil
	}
	for _, awaited := range ev.Awaits {
		p, ok := o.look(awaited)
		if !ok {
			return 422, nil
		}
		if promise.OriginOf(awaited) != promise.OriginOf(id) {
			return 400, nil
		}
		ev.Ready = ev.Ready || p.State.Terminal()
	}
	rec, err := o.step(id, ev)
	if errors.Is(err, promise.ErrReady) {
		return 300, map[string]any{"preload": o.preload(rec)}
	}
	for _, awaited := range ev.Awaits {
		o.step(awaited, promise.Await{Awaiter: id})
	}
	return 200, struct{}{}
}

func (o *oracle) fence(id string, version uint64, a *action) (int, any) {
	var of taskRef
	json.Unmarshal(a.Data, &of)
	if _, err := o.step(id, promise.Fence{Version: version}); err != nil {
		return 409, nil
	}
	inner := answer{Kind: *a.Kind, Head: answerHead{CorrID: corrOf(a), Status: 200, Version: Version}}
	_, there := o.look(*of.ID)
	switch {
	case *a.Kind == "promise.create":
		inner.Data = promiseReply{view(o.create(a.Data, promise.Create{}))}
	case there:
		inner.Data = promiseReply{view(o.settle(a.Data))}
	default:
		inner.Head.Status, inner.Data = http.StatusNotFound, "Not found"
	}
	return 200, map[string]any{"action": inner, "preload": []promiseView{}}
}

// tick lets everything happen that is due, the earliest first.
func (o *oracle) tick(at promise.Time) {
	was := o.now
	o.now = at
	for {
		var due []promise.Record
		for _, rec := range o.recs {
			if rec.DueAt != 0 && rec.DueAt <= at {
				due = append(due, rec)
			}
		}
		if len(due) == 0 {
			break
		}
		slices.SortFunc(due, func(a, b promise.Record) int {
			if a.DueAt != b.DueAt {
				return int(a.DueAt - b.DueAt)
			}
			return strings.Compare(a.ID, b.ID)
		})
		for _, rec := range due {
			o.step(rec.ID, promise.Tick{})
		}
	}
	o.now = was
}

// snap is what debug.snap shows.
func (o *oracle) snap() snapshot {
	var all []promise.Record
	for _, id := range o.ids() {
		all = append(all, o.recs[id])
	}
	return o.debug.snap(all)
}
