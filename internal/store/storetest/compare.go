package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// Random is what a comparison does.
type Random struct {
	Seed       uint64
	Operations int
}

// Compare does random operations on two empty stores, the same on both, and
// checks that they give the same answers and hold the same.
func Compare(t *testing.T, r Random, want, got store.Store) {
	t.Helper()
	c := &comparison{T: t, rand: rand.New(rand.NewPCG(r.Seed, 0)), want: want, got: got}
	quarter := max(r.Operations/4, 1)
	for i := range r.Operations {
		c.step()
		if i%quarter == quarter-1 {
			c.snapshot()
		}
		if t.Failed() {
			t.Fatalf("seed %d, operation %d", r.Seed, i)
		}
	}
}

type comparison struct {
	*testing.T
	rand      *rand.Rand
	want, got store.Store
	known     []promise.Record // as they were at some time
	clock     promise.Time
}

// answer is what an operation says, in comparable form.
type answer struct {
	err     string
	stored  promise.Record
	records []promise.Record
	ids     []string
}

// both does an operation on both stores.
func (c *comparison) both(what string, op func(store.Store) answer) answer {
	c.Helper()
	want, got := op(c.want), op(c.got)
	if !reflect.DeepEqual(want, got) {
		c.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
	return want
}

// said puts an error into an answer.
func said(err error) answer {
	var refused *store.Refused
	switch {
	case err == nil:
		return answer{}
	case errors.As(err, &refused):
		return answer{err: "refused", stored: refused.Stored}
	case errors.Is(err, store.ErrNotFound):
		return answer{err: "not found"}
	default:
		return answer{err: "an error"}
	}
}

// id returns one of few ids: top-level ones that resemble each other, and
// descendants of both kinds. A colon comes first or not at all: behind a dot
// its ids are a graph of their own in some stores.
func (c *comparison) id() string {
	id := []string{"a", "a1", "a10", "P", "PP", "p-1"}[c.rand.IntN(6)]
	separators := []string{".", ":"}
	for c.rand.IntN(3) == 0 {
		separator := separators[c.rand.IntN(len(separators))]
		if separator == "." && !strings.Contains(id, ":") {
			separators = separators[:1]
		}
		id += separator + []string{"1", "10", "2", "x"}[c.rand.IntN(4)]
	}
	if c.rand.IntN(2) == 0 {
		id += fmt.Sprint(c.rand.IntN(50))
	}
	return id
}

// fresh returns a new record.
func (c *comparison) fresh() promise.Record {
	c.clock += promise.Time(c.rand.IntN(2))
	rec := record(c.id())
	rec.CreatedAt, rec.DueAt = c.clock, c.time()
	rec.Owner = []string{"local", "another"}[c.rand.IntN(2)]
	rec.Machine = []string{"cpu", "gpu", "tpu"}[c.rand.IntN(3)]
	rec.WriteID = nonce("w", c.rand.Uint64())
	return rec
}

// next returns what could follow a known record: often one that is not stored
// any more.
func (c *comparison) next() promise.Record {
	if len(c.known) == 0 {
		return after(c.fresh())
	}
	rec := c.known[len(c.known)-1-c.rand.IntN(min(len(c.known), 100))]
	if c.rand.IntN(4) == 0 {
		rec = settled(rec)
	} else {
		rec = after(rec)
		rec.DueAt = c.time()
	}
	rec.Attempts = rec.Attempts[max(0, len(rec.Attempts)-3):]
	rec.WriteID = nonce("w", c.rand.Uint64())
	return rec
}

// time returns one around the clock's, or none.
func (c *comparison) time() promise.Time {
	return max(0, c.clock+promise.Time(c.rand.IntN(100)-50)) * promise.Time(c.rand.IntN(3))
}

func (c *comparison) step() {
	c.Helper()
	ctx := c.Context()
	switch op := c.rand.IntN(100); {
	case op < 25:
		c.write("Create", c.fresh(), store.Store.Create)
	case op < 60:
		c.write("Replace", c.next(), store.Store.Replace)
	case op < 70:
		c.several()
	case op < 80:
		id := c.id()
		c.both("Get "+id, func(s store.Store) answer {
			rec, err := s.Get(ctx, id)
			a := said(err)
			a.stored = rec
			return a
		})
	case op < 88:
		now, limit := c.time(), c.rand.IntN(20)
		c.both(fmt.Sprint("Due ", now, limit), func(s store.Store) answer {
			ids, err := s.Due(ctx, now, limit)
			a := said(err)
			a.ids = ids
			return a
		})
	case op < 99:
		id, last, limit := c.id(), c.id(), c.rand.IntN(20)
		c.both(fmt.Sprint("Children ", id, last, limit), func(s store.Store) answer {
			recs, err := s.Children(ctx, id, last, limit)
			a := said(err)
			a.records = recs
			return a
		})
	default:
		c.list(c.query())
	}
}

func (c *comparison) write(what string, rec promise.Record, write func(store.Store, context.Context, promise.Record) error) {
	c.Helper()
	a := c.both(what+" "+rec.ID, func(s store.Store) answer { return said(write(s, c.Context(), rec)) })
	c.learn(a, rec)
}

// learn remembers what is stored now.
func (c *comparison) learn(a answer, recs ...promise.Record) {
	if a.err == "" {
		c.known = append(c.known, recs...)
	} else if a.stored.ID != "" {
		c.known = append(c.known, a.stored)
	}
}

func (c *comparison) several() {
	c.Helper()
	var writes []store.Write
	var recs []promise.Record
	for range c.rand.IntN(4) + 1 {
		switch c.rand.IntN(3) {
		case 0:
			writes = append(writes, store.Write{Record: c.fresh()})
		case 1:
			writes = append(writes, store.Write{Record: c.next()})
		case 2:
			rec := c.next()
			rec.Rev--
			writes = append(writes, store.Write{Record: rec, Check: true})
			continue
		}
		recs = append(recs, writes[len(writes)-1].Record)
	}
	a := c.both(fmt.Sprintf("ReplaceAll %+v", writes), func(s store.Store) answer {
		return said(s.ReplaceAll(c.Context(), writes))
	})
	c.learn(a, recs...)
}

func (c *comparison) query() store.Query {
	q := store.Query{Owner: "local", Limit: c.rand.IntN(100) + 10, Since: max(0, c.clock-promise.Time(c.rand.IntN(200)))}
	if c.rand.IntN(2) == 0 {
		q.Machine = []string{"cpu", "gpu", "none"}[c.rand.IntN(3)]
	}
	if c.rand.IntN(2) == 0 {
		state := promise.State(c.rand.IntN(2))
		q.State = &state
	}
	if c.rand.IntN(2) == 0 {
		q.Prefix = c.id()
	}
	return q
}

// list compares a whole list: its pages may be cut differently.
func (c *comparison) list(q store.Query) {
	c.Helper()
	c.both(fmt.Sprintf("List %+v", q), func(s store.Store) answer {
		recs, err := drain(c.Context(), s, q)
		a := said(err)
		a.records = recs
		return a
	})
}

// snapshot compares all that the stores hold.
func (c *comparison) snapshot() {
	c.Helper()
	for _, owner := range []string{"local", "another"} {
		c.list(store.Query{Owner: owner, Limit: store.MaxPage})
	}
	c.both("everything due", func(s store.Store) answer {
		ids, err := s.Due(c.Context(), 1<<62, 1<<30)
		a := said(err)
		a.ids = ids
		return a
	})
	for _, id := range []string{"a", "a1", "a10", "P", "PP", "p-1"} {
		c.both("every child of "+id, func(s store.Store) answer {
			recs, err := s.Children(c.Context(), id, "", 1<<30)
			a := said(err)
			a.records = recs
			return a
		})
	}
}

// drain returns all pages of a list as one.
func drain(ctx context.Context, s store.Store, q store.Query) (recs []promise.Record, err error) {
	for {
		page, err := s.List(ctx, q)
		if err != nil {
			return nil, err
		}
		if len(page.Records) > q.Limit {
			return nil, fmt.Errorf("a page of %d records, over the limit of %d", len(page.Records), q.Limit)
		}
		recs = append(recs, page.Records...)
		if page.Cursor == "" {
			return recs, nil
		}
		if page.Cursor == q.Cursor {
			return nil, errors.New("the cursor does not move")
		}
		q.Cursor = page.Cursor
	}
}
