package protocol

import (
	"errors"
	"net/http"

	"modulate/internal/promise"
)

// own returns a promise of the caller's as it is at this moment; another's does
// not exist.
func (c *call) own(id string) (promise.Record, error) {
	rec, err := c.engine.Get(c.ctx, id)
	if err == nil && (rec.Owner != c.owner || rec.Protocol != nil && rec.Protocol.Schedule != nil) {
		return promise.Record{}, promise.ErrNotFound
	}
	return rec, err
}

type promiseReply struct {
	Promise promiseView `json:"promise"`
}

func (c *call) promiseGet() (reply, error) {
	var in struct {
		ID *string `json:"id"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, err := ident("id", in.ID)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.own(id)
	return reply{data: promiseReply{view(rec)}}, err
}

func (c *call) promiseCreate() (reply, error) {
	var in newPromise
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	draft, err := c.draft(in)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.engine.Create(c.ctx, draft, nil)
	if errors.Is(err, promise.ErrExists) {
		rec, err = c.taken(rec)
	}
	return reply{data: promiseReply{view(rec)}}, err
}

// taken returns the record that has the id already, if it is the caller's.
func (c *call) taken(rec promise.Record) (promise.Record, error) {
	if rec.Owner != c.owner {
		return rec, fail(http.StatusConflict, "The id is taken")
	}
	return c.engine.Step(c.ctx, rec, promise.View{})
}

// settlement is the data of promise.settle.
type settlement struct {
	ID    *string `json:"id"`
	State *string `json:"state"`
	Value *value  `json:"value"`
}

func (n settlement) check() (id string, state promise.State, err error) {
	if id, err = ident("id", n.ID); err != nil {
		return "", 0, err
	}
	state, err = endState(n.State)
	return id, state, err
}

func (c *call) promiseSettle() (reply, error) {
	var in settlement
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, state, err := in.check()
	if err != nil {
		return reply{}, err
	}
	rec, err := c.own(id)
	if err != nil {
		return reply{}, err
	}
	rec, err = c.engine.Step(c.ctx, rec, c.settle(rec, state, in.Value))
	if errors.Is(err, promise.ErrSettled) {
		err = nil // the first one counts
	}
	if err == nil {
		c.left(rec)
	}
	return reply{data: promiseReply{view(rec)}}, err
}

// settle is the event that ends rec. To reject a script as cancelled is to
// cancel it, with its children.
func (c *call) settle(rec promise.Record, state promise.State, v *value) promise.Event {
	if state == promise.Canceled && isScript(rec) {
		return promise.Cancel{SettleID: c.engine.NewNonce()}
	}
	return promise.Settle{State: state, SettleID: c.engine.NewNonce(), Value: v.stored()}
}

func (c *call) registerCallback() (reply, error) {
	var in callback
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	awaited, awaiter, err := in.check()
	if err != nil {
		return reply{}, err
	}
	if awaited == awaiter {
		return reply{}, invalid("awaited and awaiter must not be the same")
	}
	p, err := c.own(awaited)
	if err != nil {
		return reply{}, err
	}
	a, err := c.own(awaiter)
	switch {
	case errors.Is(err, promise.ErrNotFound):
		return reply{}, fail(http.StatusUnprocessableEntity, "Awaiter not found")
	case err != nil:
		return reply{}, err
	case a.Task.State == promise.TaskNone || isScript(a):
		return reply{}, fail(http.StatusUnprocessableEntity, "Awaiter has no target")
	case !related(a, p):
		return reply{}, invalid("awaited and awaiter are of different origins")
	}
	if a.State.Terminal() { // since it was looked at, the other one may have ended before that
		p, err = c.own(awaited)
		return reply{data: promiseReply{view(p)}}, err
	}
	p, err = c.engine.Step(c.ctx, p, promise.Await{Awaiter: awaiter})
	if errors.Is(err, promise.ErrSettled) {
		err = nil // nothing will come, and the answer says so
	}
	return reply{data: promiseReply{view(p)}}, err
}

// callback is the data of promise.register_callback.
type callback struct {
	Awaited *string `json:"awaited"`
	Awaiter *string `json:"awaiter"`
}

func (n callback) check() (awaited, awaiter string, err error) {
	if awaited, err = ident("awaited", n.Awaited); err != nil {
		return "", "", err
	}
	awaiter, err = ident("awaiter", n.Awaiter)
	return awaited, awaiter, err
}

func (c *call) registerListener() (reply, error) {
	var in struct {
		Awaited *string `json:"awaited"`
		Address *string `json:"address"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	id, err := ident("awaited", in.Awaited)
	if err != nil {
		return reply{}, err
	}
	if in.Address == nil {
		return reply{}, invalid("Invalid data: address is missing")
	}
	address, ok := promise.ParseAddress(*in.Address)
	if !ok {
		return reply{}, invalid("Invalid address %q", *in.Address)
	}
	rec, err := c.own(id)
	if err != nil {
		return reply{}, err
	}
	if c.Delivery != nil && !rec.State.Terminal() { // before the write, so that its end is not missed
		c.Delivery.Listening(id, address)
	}
	rec, err = c.engine.Step(c.ctx, rec, promise.Listen{Address: *in.Address})
	if errors.Is(err, promise.ErrSettled) {
		err = nil
	}
	return reply{data: promiseReply{view(rec)}}, err
}
