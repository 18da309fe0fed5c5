package protocol

import (
	"errors"
	"net/http"
	"strings"

	"modulate/internal/promise"
)

// scheduleView is a schedule on the wire.
type scheduleView struct {
	ID             string            `json:"id"`
	Cron           string            `json:"cron"`
	PromiseID      string            `json:"promiseId"`
	PromiseTimeout int64             `json:"promiseTimeout"`
	PromiseParam   value             `json:"promiseParam"`
	PromiseTags    map[string]string `json:"promiseTags"`
	CreatedAt      int64             `json:"createdAt"`
	NextRunAt      int64             `json:"nextRunAt"`
	LastRunAt      *int64            `json:"lastRunAt,omitempty"`
}

func scheduleOf(rec promise.Record) scheduleView {
	c := rec.Protocol.Schedule
	v := scheduleView{
		ID: c.ID, Cron: c.Cron, PromiseID: c.PromiseID, PromiseTimeout: c.Timeout, PromiseParam: wireValue(c.Param),
		PromiseTags: c.Tags, CreatedAt: int64(rec.CreatedAt), NextRunAt: int64(c.NextAt),
	}
	if v.PromiseTags == nil {
		v.PromiseTags = map[string]string{}
	}
	if c.LastAt != 0 {
		at := int64(c.LastAt)
		v.LastRunAt = &at
	}
	return v
}

// ownSchedule returns a schedule of the caller's that is not deleted.
func (c *call) ownSchedule(id *string) (promise.Record, error) {
	if _, err := ident("id", id); err != nil {
		return promise.Record{}, err
	}
	rec, err := c.engine.Get(c.ctx, promise.ScheduleID(*id))
	if err == nil && (rec.Owner != c.owner || rec.State.Terminal()) {
		err = promise.ErrNotFound
	}
	return rec, err
}

func (c *call) scheduleCreate() (reply, error) {
	var in struct {
		ID             *string           `json:"id"`
		Cron           *string           `json:"cron"`
		PromiseID      *string           `json:"promiseId"`
		PromiseTimeout *int64            `json:"promiseTimeout"`
		PromiseParam   *value            `json:"promiseParam"`
		PromiseTags    map[string]string `json:"promiseTags"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	if _, err := ident("id", in.ID); err != nil {
		return reply{}, err
	}
	if strings.Contains(*in.ID, ".") || len(promise.ScheduleID(*in.ID)) > promise.MaxChildID {
		return reply{}, invalid("Invalid data: a schedule's id holds no \".\" and is not longer than a promise's")
	}
	if _, err := ident("promiseId", in.PromiseID); err != nil {
		return reply{}, err
	}
	if in.Cron == nil || in.PromiseTimeout == nil || *in.PromiseTimeout < 0 {
		return reply{}, invalid("Invalid data: cron and promiseTimeout are needed")
	}
	if _, err := promise.ParseCron(*in.Cron); err != nil {
		return reply{}, invalid("Invalid cron expression: %v", err)
	}
	if _, ok := promise.ParseAddress(in.PromiseTags[promise.TagTarget]); !ok {
		return reply{}, invalid("promiseTags must include a %s tag", promise.TagTarget)
	}
	s := promise.Schedule{
		ID: *in.ID, Cron: *in.Cron, PromiseID: *in.PromiseID, Timeout: *in.PromiseTimeout,
		Param: in.PromiseParam.stored(), Tags: in.PromiseTags,
	}
	if err := c.checkRun(s); err != nil {
		return reply{}, err
	}
	rec, err := c.schedule(s)
	if err != nil {
		return reply{}, err
	}
	return reply{data: map[string]any{"schedule": scheduleOf(rec)}}, nil
}

// checkRun refuses a schedule whose promises could not be created: it would try
// for ever.
func (c *call) checkRun(s promise.Schedule) error {
	id, tags, deadline := s.Run(c.engine.Time())
	timeout := int64(deadline)
	_, err := c.draft(newPromise{ID: &id, TimeoutAt: &timeout, Tags: tags})
	return err
}

// schedule creates a schedule, over one that was deleted too, or returns the
// one that there is.
func (c *call) schedule(s promise.Schedule) (promise.Record, error) {
	draft := promise.NewSchedule(c.owner, s)
	draft.Protocol.Exact = c.Debug != nil
	rec, err := c.engine.Create(c.ctx, draft, nil)
	if !errors.Is(err, promise.ErrExists) {
		return rec, err
	}
	if rec.Owner != c.owner {
		return rec, fail(http.StatusConflict, "The id is taken")
	}
	rec, err = c.engine.Step(c.ctx, rec, promise.Reschedule{Schedule: s})
	if errors.Is(err, promise.ErrExists) {
		err = nil
	}
	return rec, err
}

func (c *call) scheduleGet() (reply, error) {
	var in taskRef
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	rec, err := c.ownSchedule(in.ID)
	if err != nil {
		return reply{}, err
	}
	return reply{data: map[string]any{"schedule": scheduleOf(rec)}}, nil
}

func (c *call) scheduleDelete() (reply, error) {
	var in taskRef
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	rec, err := c.ownSchedule(in.ID)
	if err != nil {
		return reply{}, err
	}
	_, err = c.engine.Step(c.ctx, rec, promise.Settle{State: promise.Canceled, SettleID: c.engine.NewNonce()})
	if errors.Is(err, promise.ErrSettled) {
		err = promise.ErrNotFound
	}
	return empty, err
}

func (c *call) scheduleSearch() (reply, error) {
	var q query
	if err := read(c.data, &q); err != nil {
		return reply{}, err
	}
	after, limit, err := q.check(defaultSched)
	if err != nil {
		return reply{}, err
	}
	if after != "" {
		after = promise.ScheduleID(promise.DecodeID(after))
	}
	views := []scheduleView{}
	for {
		page1, err := c.engine.Store.Children(c.ctx, promise.Schedules, after, looked)
		if err != nil {
			return reply{}, err
		}
		for _, rec := range page1 {
			after = rec.ID
			if rec.Owner != c.owner || rec.State.Terminal() || !matches(rec.Protocol.Schedule.Tags, q.Tags) {
				continue
			}
			if len(views) == limit {
				return reply{data: page{Schedules: &views, Cursor: &views[limit-1].ID}}, nil
			}
			views = append(views, scheduleOf(rec))
		}
		if len(page1) < looked {
			return reply{data: page{Schedules: &views}}, nil
		}
	}
}
