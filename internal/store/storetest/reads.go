package storetest

import (
	"errors"
	"fmt"
	"slices"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func dues() []test {
	due := func(id string, at promise.Time) promise.Record {
		rec := record(id)
		rec.DueAt = at
		return rec
	}
	return []test{
		{"is the earliest first, up to now and limit", func(s *suite) {
			s.create(due("c", 30), due("a", 10), due("never", 0), due("b", 20), due("later", 41), due("now", 40))
			s.due(40, 100, "a", "b", "c", "now")
			s.due(40, 2, "a", "b")
			s.due(39, 100, "a", "b", "c")
			s.due(9, 100)
			s.due(40, 0)
		}},
		{"goes by the id where the time is the same", func(s *suite) {
			s.create(due("b", 10), due("a", 10), due("c", 10))
			s.due(10, 2, "a", "b")
		}},
		{"moves and ends with DueAt", func(s *suite) {
			rec := due("a", 10)
			s.create(rec, due("b", 20))
			rec = after(rec)
			rec.DueAt = 30
			s.ok(s.Replace(s.Context(), rec))
			s.due(30, 100, "b", "a")
			s.ok(s.Replace(s.Context(), settled(rec)))
			s.due(30, 100, "b")
		}},
	}
}

func (s *suite) due(now promise.Time, limit int, want ...string) {
	s.Helper()
	got, err := s.Due(s.Context(), now, limit)
	s.ok(err)
	s.equal(got, want)
}

func lists() []test {
	return []test{
		{"is the newest first, then the id descending", func(s *suite) {
			s.create(aged("a", 10), aged("c", 20), aged("b", 20), aged("d", 5))
			s.list(store.Query{Owner: "local", Limit: 100}, "c", "b", "a", "d")
		}},
		{"is the same over machines as over pages", func(s *suite) { s.listPages() }},
		{"filters", func(s *suite) { s.listFilters() }},
		{"filters by the state as it is", func(s *suite) {
			pending, resolved := promise.Pending, promise.Resolved
			s.create(aged("a", 1), aged("b", 2))
			s.ok(s.Replace(s.Context(), settled(aged("a", 1))))
			s.list(store.Query{Owner: "local", Limit: 9, State: &pending}, "b")
			s.list(store.Query{Owner: "local", Limit: 9, State: &resolved}, "a")
		}},
		{"returns whole records", func(s *suite) {
			rec := settled(aged("a", 1))
			rec.Rev = 1
			s.create(rec)
			page, err := s.List(s.Context(), store.Query{Owner: "local", Limit: 1})
			s.ok(err)
			if len(page.Records) != 1 {
				s.Fatalf("%d records", len(page.Records))
			}
			s.same(page.Records[0], rec)
		}},
		{"goes on where the page ended, whatever is written meanwhile", func(s *suite) {
			s.create(aged("a", 1), aged("b", 2), aged("c", 3), aged("d", 4))
			page, err := s.List(s.Context(), store.Query{Owner: "local", Limit: 2})
			s.ok(err)
			s.equal(ids(page.Records), []string{"d", "c"})
			s.create(aged("e", 5), aged("bb", 2))
			s.ok(s.Replace(s.Context(), after(aged("c", 3))))
			s.list(store.Query{Owner: "local", Limit: 100, Cursor: page.Cursor}, "bb", "b", "a")
		}},
		{"of nothing is the last page", func(s *suite) {
			s.list(store.Query{Owner: "local", Limit: 1})
			s.list(store.Query{Owner: "local", Limit: 1, Machine: "gpu", Prefix: "x"})
		}},
		{"takes a limit of 1 to 1000", func(s *suite) {
			for _, limit := range []int{-1, 0, 1001} {
				_, err := s.List(s.Context(), store.Query{Owner: "local", Limit: limit})
				s.fails(err, fmt.Sprintf("limit %d", limit))
			}
			s.list(store.Query{Owner: "local", Limit: 1000})
		}},
		{"takes no cursor but its own", func(s *suite) {
			s.create(aged("a", 1))
			for _, cursor := range []string{"x", "!", "MTAw", "MTAwIA", "IGE", "eCBh", "a b", "\x00", "bnVsbA==", "{}"} {
				_, err := s.List(s.Context(), store.Query{Owner: "local", Limit: 1, Cursor: cursor})
				if !errors.Is(err, store.ErrCursor) {
					s.Errorf("cursor %q: got %v, want ErrCursor", cursor, err)
				}
			}
		}},
	}
}

// aged returns a record created at that time.
func aged(id string, at promise.Time) promise.Record {
	rec := record(id)
	rec.CreatedAt = at
	return rec
}

// list checks the whole of a list, page by page.
func (s *suite) list(q store.Query, want ...string) {
	s.Helper()
	recs, err := drain(s.Context(), s.Store, q)
	s.ok(err)
	s.equal(ids(recs), want)
}

// listPages lists records of three machines, several created at one time, in
// pages of every size.
func (s *suite) listPages() {
	var want []string
	for i := range 30 {
		rec := aged(fmt.Sprintf("a%02d", i), promise.Time(100+i/4))
		rec.Machine = []string{"cpu", "gpu", "gpu-a100"}[i%3]
		s.create(rec)
		want = append(want, rec.ID)
	}
	slices.Reverse(want)
	for _, limit := range []int{1, 2, 3, 4, 7, 29, 30, 31, 1000} {
		s.list(store.Query{Owner: "local", Limit: limit}, want...)
	}
	recs, err := drain(s.Context(), s.Store, store.Query{Owner: "local", Machine: "gpu", Limit: 3})
	s.ok(err)
	if len(recs) != 10 {
		s.Errorf("%d of 10 records of machine gpu", len(recs))
	}
	for i, rec := range recs {
		if rec.Machine != "gpu" || i > 0 && rec.ID >= recs[i-1].ID {
			s.Errorf("record %d is %s of %s", i, rec.ID, rec.Machine)
		}
	}
}

func (s *suite) listFilters() {
	for i, rec := range []promise.Record{
		aged("a1", 10), aged("a10", 20), aged("a2", 30), aged("b1", 40), aged("a1.1", 50),
	} {
		rec.Machine = []string{"cpu", "gpu"}[i%2]
		if i == 2 {
			rec.Owner = "another"
		}
		s.create(rec)
	}
	pending := promise.Pending
	q := func(f func(*store.Query)) store.Query {
		query := store.Query{Owner: "local", Limit: 2}
		f(&query)
		return query
	}
	s.list(q(func(*store.Query) {}), "a1.1", "b1", "a10", "a1")
	s.list(q(func(q *store.Query) { q.Owner = "another" }), "a2")
	s.list(q(func(q *store.Query) { q.Owner = "nobody" }))
	s.list(q(func(q *store.Query) { q.Machine = "gpu" }), "b1", "a10")
	s.list(q(func(q *store.Query) { q.Machine = "tpu" }))
	s.list(q(func(q *store.Query) { q.Prefix = "a1" }), "a1.1", "a10", "a1")
	s.list(q(func(q *store.Query) { q.Prefix = "a1." }), "a1.1")
	s.list(q(func(q *store.Query) { q.Prefix = "A" }))
	s.list(q(func(q *store.Query) { q.Prefix = "%" }))
	s.list(q(func(q *store.Query) { q.Since = 20 }), "a1.1", "b1", "a10")
	s.list(q(func(q *store.Query) { q.Since = 51 }))
	s.list(q(func(q *store.Query) { q.Since, q.Machine, q.Prefix, q.State = 20, "gpu", "a", &pending }), "a10")
}

func children() []test {
	return []test{
		{"are all descendants, in ascending order, and nothing else", func(s *suite) {
			s.family()
			s.children("P", "", 100, "P.1", "P.1.1", "P.10", "P.2", "P:x", "P:x.1")
			s.children("P.1", "", 100, "P.1.1")
			s.children("P.2", "", 100)
			s.children("P:x", "", 100, "P:x.1")
			s.children("a1", "", 100, "a1.1")
			s.children("a10", "", 100, "a10.1")
			s.children("unknown", "", 100)
		}},
		{"of an id with a dot may stand behind a colon", func(s *suite) {
			for _, id := range []string{"a", "a.b", "a.b:1", "a.b:1.2", "a.c:1"} {
				s.create(record(id))
			}
			s.children("a.b", "", 100, "a.b:1", "a.b:1.2")
			s.children("a.b:1", "", 100, "a.b:1.2")
		}},
		{"go on after an id, also one that is not there", func(s *suite) {
			s.family()
			s.children("P", "P.1", 100, "P.1.1", "P.10", "P.2", "P:x", "P:x.1")
			s.children("P", "P.11", 100, "P.2", "P:x", "P:x.1")
			s.children("P", "P.2", 100, "P:x", "P:x.1")
			s.children("P", "P.2", 1, "P:x")
			s.children("P", "P:x.1", 100)
			s.children("P", "Q", 100)
		}},
		{"are the same in pages of every size", func(s *suite) {
			s.family()
			for limit := 1; limit <= 7; limit++ {
				var got []string
				for last := ""; ; last = got[len(got)-1] {
					page, err := s.Children(s.Context(), "P", last, limit)
					s.ok(err)
					got = append(got, ids(page)...)
					if len(page) < limit {
						break
					}
				}
				s.equal(got, []string{"P.1", "P.1.1", "P.10", "P.2", "P:x", "P:x.1"})
			}
			s.children("P", "", 0)
		}},
		{"are seen as soon as they are acknowledged", func(s *suite) {
			s.create(record("P"))
			for i := range 20 {
				child := record(fmt.Sprintf("P.%d", i))
				s.create(child)
				s.ok(s.Replace(s.Context(), settled(child)))
				recs, err := s.Children(s.Context(), "P", "", 100)
				s.ok(err)
				if len(recs) != i+1 {
					s.Fatalf("%d of %d children", len(recs), i+1)
				}
				for _, rec := range recs {
					s.same(rec, settled(record(rec.ID)))
				}
			}
		}},
	}
}

// family stores a call graph among ids that resemble it.
func (s *suite) family() {
	s.Helper()
	for _, id := range []string{
		"P", "P.1", "P.1.1", "P.10", "P.2", "P:x", "P:x.1",
		"P1", "P-1", "P_1", "PP.1", "O", "Q", "detached_P_1", "p.1", "a1", "a1.1", "a10", "a10.1",
	} {
		s.create(record(id))
	}
}

func (s *suite) children(id, after string, limit int, want ...string) {
	s.Helper()
	got, err := s.Children(s.Context(), id, after, limit)
	s.ok(err)
	s.equal(ids(got), want)
	for _, rec := range got {
		s.same(rec, record(rec.ID))
	}
}
