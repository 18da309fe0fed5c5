package protocol

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"modulate/internal/engine"
	"modulate/internal/promise"
)

func (c *call) taskFence() (reply, error) {
	id, version, action, err := c.underTask()
	if err != nil {
		return reply{}, err
	}
	do, of, err := c.fencedAction(action)
	if err != nil {
		return reply{}, err
	}
	if of == id {
		return reply{}, invalid("The action's id is the task's")
	}
	task, err := c.work(id)
	if err != nil {
		return reply{}, err
	}
	if err := c.holds(task, version); err != nil {
		return reply{}, err
	}
	inner := answer{Kind: *action.Kind, Head: answerHead{CorrID: corrOf(action), Status: http.StatusOK, Version: Version}}
	rec, err := do(engine.Fence{Task: id, Version: version})
	inner.Data = promiseReply{view(rec)}
	switch {
	case errors.Is(err, promise.ErrNotFound) && !errors.Is(err, engine.ErrFence):
		inner.Head.Status, inner.Data = http.StatusNotFound, "Not found"
	case err != nil:
		return reply{}, err
	}
	return reply{data: map[string]any{"action": inner, "preload": []promiseView{}}}, nil
}

// fencedAction returns what a fence is to do, and the id it does that to.
func (c *call) fencedAction(a *action) (do func(engine.Fence) (promise.Record, error), id string, err error) {
	switch *a.Kind {
	case "promise.create":
		var n newPromise
		if err := read(a.Data, &n); err != nil {
			return nil, "", err
		}
		draft, err := c.draft(n)
		return func(f engine.Fence) (promise.Record, error) {
			draft.Owner = c.owner // of a worker's call, by now the task's
			rec, err := c.engine.FencedCreate(c.ctx, f, draft)
			if errors.Is(err, promise.ErrExists) {
				return c.taken(rec)
			}
			return rec, err
		}, draft.ID, err
	case "promise.settle":
		var n settlement
		if err := read(a.Data, &n); err != nil {
			return nil, "", err
		}
		id, state, err := n.check()
		return func(f engine.Fence) (promise.Record, error) {
			rec, err := c.own(id)
			if err != nil {
				return rec, err
			}
			rec, err = c.engine.FencedSettle(c.ctx, f, id, c.settle(rec, state, n.Value))
			if errors.Is(err, promise.ErrSettled) && !errors.Is(err, engine.ErrFence) {
				err = nil // the first one counts
			}
			return rec, err
		}, id, err
	}
	return nil, "", invalid("A fence is for promise.create and promise.settle, not %s", *a.Kind)
}

// corrOf is the corrId in an action's head, "" if it has none.
func corrOf(a *action) string {
	var head struct {
		CorrID any `json:"corrId"`
	}
	json.Unmarshal(*a.Head, &head) // whatever it is, it is not checked
	id, _ := head.CorrID.(string)
	return id
}

// beats is how many leases one heartbeat extends at once.
const beats = 8

func (c *call) taskHeartbeat() (reply, error) {
	var in struct {
		PID   *string   `json:"pid"`
		Tasks []taskRef `json:"tasks"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	if in.PID == nil || *in.PID == "" {
		return reply{}, invalid("Invalid data: pid is missing")
	}
	held := make([]Held, 0, len(in.Tasks))
	for _, n := range in.Tasks {
		id, version, err := n.check()
		if err != nil {
			return reply{}, err
		}
		held = append(held, Held{id, version})
	}
	if len(in.Tasks) == 0 && c.Delivery != nil {
		held = c.Delivery.Held(*in.PID)
	}
	return empty, c.extend(*in.PID, held)
}

// extend extends leases. What is not held any more is left alone.
func (c *call) extend(pid string, held []Held) error {
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	free := make(chan struct{}, beats)
	for _, h := range held {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			own := *c
			_, err := own.step(h.ID, promise.Heartbeat{Version: h.Version, Worker: pid})
			var f *failure
			if err == nil || errors.As(err, &f) || errors.Is(err, promise.ErrNotFound) || errors.Is(err, promise.ErrSettled) || errors.Is(err, promise.ErrVersion) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			first = err
		})
	}
	wg.Wait()
	return first
}
