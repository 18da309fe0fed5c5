package protocol

import (
	"modulate/internal/promise"
)

// The limits of a page.
const (
	defaultPage  = 100
	defaultSched = 10
	maxPage      = 1000
	looked       = 1000 // records at once
)

// query is the data of the searches.
type query struct {
	State  *string           `json:"state"`
	Tags   map[string]string `json:"tags"`
	Limit  *int              `json:"limit"`
	Cursor *string           `json:"cursor"`

	// Below is ours: that promise and all that is below it, with their tasks,
	// whose versions count how often each was taken. Nothing else filters; where
	// enough is found, Cursor asks for the rest.
	Below *string `json:"modulate:below"`
}

func (q query) check(limit int) (after string, n int, err error) {
	if q.Limit != nil {
		limit = *q.Limit
	}
	if limit < 1 || limit > maxPage {
		return "", 0, invalid("Invalid data: limit must be within 1 and %d", maxPage)
	}
	if q.Cursor != nil {
		after = promise.EncodeID(*q.Cursor)
	}
	return after, limit, nil
}

// search goes through the caller's records after an id until limit match, or
// enough is found. The cursor is the last one's, if there are others.
func (c *call) search(after string, limit int, match func(promise.Record) bool) (found []promise.Record, cursor *string, err error) {
	for bytes := 0; ; {
		page, err := c.Search.Search(c.ctx, after, looked)
		if err != nil {
			return nil, nil, err
		}
		for _, rec := range page {
			after = rec.ID
			if rec.Owner != c.owner || rec.Protocol != nil && rec.Protocol.Schedule != nil || !match(rec) {
				continue
			}
			bytes += weight(rec)
			if n := len(found); n == limit || n > 0 && bytes > enough {
				last := promise.DecodeID(found[n-1].ID)
				return found, &last, nil
			}
			found = append(found, rec)
		}
		if len(page) < looked {
			return found, nil, nil
		}
	}
}

func (c *call) promiseSearch() (reply, error) {
	var q query
	if err := read(c.data, &q); err != nil {
		return reply{}, err
	}
	if q.Below != nil {
		return c.below(q)
	}
	after, limit, err := q.check(defaultPage)
	if err != nil {
		return reply{}, err
	}
	match := func(promise.Record) bool { return true }
	if q.State != nil {
		state, ok := promise.ParseState(*q.State)
		if !ok {
			return reply{}, invalid("Invalid data: %q is no state", *q.State)
		}
		match = func(rec promise.Record) bool { return rec.State == state }
	}
	found, cursor, err := c.search(after, limit, func(rec promise.Record) bool { return match(rec) && matches(view(rec).Tags, q.Tags) })
	views := []promiseView{}
	for _, rec := range found {
		views = append(views, view(rec))
	}
	return reply{data: page{Promises: &views, Cursor: cursor}}, err
}

// below returns a promise and all that is below it, or what of it is behind the
// cursor.
func (c *call) below(q query) (reply, error) {
	id, err := ident("modulate:below", q.Below)
	if err != nil {
		return reply{}, err
	}
	rec, err := c.own(id)
	if err != nil {
		return reply{}, err
	}
	found, after := []promise.Record{rec}, ""
	if q.Cursor != nil {
		found, after = nil, promise.EncodeID(*q.Cursor)
	}
	for bytes := 0; ; {
		recs, err := c.engine.Store.Children(c.ctx, id, after, looked)
		if err != nil {
			return reply{}, err
		}
		for _, rec := range recs {
			if rec.Owner != c.owner {
				continue
			}
			if bytes += weight(rec); bytes > enough && len(found) > 0 {
				last := promise.DecodeID(after)
				return c.graph(found, &last), nil
			}
			after = rec.ID
			found = append(found, rec)
		}
		if len(recs) < looked {
			return c.graph(found, nil), nil
		}
		after = recs[len(recs)-1].ID
	}
}

// graph answers with promises and their tasks.
func (c *call) graph(found []promise.Record, cursor *string) reply {
	promises, tasks := []promiseView{}, []taskView{}
	for _, rec := range found {
		promises = append(promises, view(rec))
		if rec.Task.State != promise.TaskNone {
			tasks = append(tasks, taskOf(rec))
		}
	}
	return reply{data: page{Promises: &promises, Tasks: &tasks, Cursor: cursor}}
}

// page is the answer to a search: one of the lists is set.
type page struct {
	Promises  *[]promiseView  `json:"promises,omitempty"`
	Tasks     *[]taskView     `json:"tasks,omitempty"`
	Schedules *[]scheduleView `json:"schedules,omitempty"`
	Cursor    *string         `json:"cursor,omitempty"`
}

func (c *call) taskSearch() (reply, error) {
	var q query
	if err := read(c.data, &q); err != nil {
		return reply{}, err
	}
	after, limit, err := q.check(defaultPage)
	if err != nil {
		return reply{}, err
	}
	match := func(rec promise.Record) bool { return rec.Task.State != promise.TaskNone }
	if q.State != nil {
		state, ok := parseTaskState(*q.State)
		if !ok {
			return reply{}, invalid("Invalid data: %q is no state of a task", *q.State)
		}
		match = func(rec promise.Record) bool { return rec.Task.State == state }
	}
	found, cursor, err := c.search(after, limit, match)
	views := []taskView{}
	for _, rec := range found {
		views = append(views, taskOf(rec))
	}
	return reply{data: page{Tasks: &views, Cursor: cursor}}, err
}
