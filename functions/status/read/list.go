package read

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// list shows the caller's promises, newest first, with what stands in their
// records.
func (rd *reader) list(r *api.Request) (api.Answer, error) {
	q, err := listQuery(r.URL.Query())
	if err != nil {
		return api.Answer{}, err
	}
	q.Owner = r.Caller.Owner
	page, err := rd.Engine.Store.List(r.Context(), q)
	if err != nil {
		return api.Answer{}, err
	}
	list := api.List{Items: make([]api.Promise, len(page.Records)), Cursor: page.Cursor}
	for i, rec := range page.Records {
		list.Items[i] = api.Summary(rec)
	}
	return api.Answer{Body: list}, nil
}

func listQuery(v url.Values) (q store.Query, err error) {
	if err := known(v, "machine", "state", "prefix", "since", "limit", "cursor"); err != nil {
		return q, err
	}
	q.Machine, q.Prefix, q.Cursor, q.Limit = v.Get("machine"), v.Get("prefix"), v.Get("cursor"), api.DefaultLimit
	if q.Machine != "" && !promise.ValidMachine(q.Machine) {
		return q, api.Invalid("machine", "machine %q: want a lower-case letter, then up to 39 of a-z, 0-9 and -", q.Machine)
	}
	if s := v.Get("state"); s != "" {
		state, ok := promise.ParseState(s)
		if !ok {
			return q, api.Invalid("state", "state %q: want pending, resolved, rejected, rejected_canceled or rejected_timedout", s)
		}
		q.State = &state
	}
	if p := q.Prefix; len(p) > promise.MaxChildID || p != "" && !promise.ValidAnyID(strings.TrimSuffix(p, ".")) {
		return q, api.Invalid("prefix", "prefix %.40q is not the beginning of an id", p)
	}
	if s := v.Get("since"); s != "" {
		if q.Since, err = since(s); err != nil {
			return q, err
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > api.MaxLimit {
			return q, api.Invalid("limit", "limit %q: want 1 to %d", s, api.MaxLimit)
		}
	}
	return q, nil
}

// since reads an instant: RFC 3339, or milliseconds since 1970.
func since(s string) (promise.Time, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 {
		return promise.Time(ms), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, api.Invalid("since", "since %q: want an instant as in 2026-01-31T12:00:00Z, or milliseconds since 1970", s)
	}
	return promise.TimeOf(t), nil
}

// known refuses parameters that no request has, and those given twice.
func known(v url.Values, names ...string) error {
	for name, values := range v {
		if !slices.Contains(names, name) {
			return api.Invalid(name, "unknown parameter %q; known are: %s", name, cmp.Or(strings.Join(names, ", "), "none"))
		}
		if len(values) > 1 {
			return api.Invalid(name, "%s is given %d times: give it once", name, len(values))
		}
	}
	return nil
}
