package storetest

import (
	"context"
	"errors"
	"maps"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// alls are the sentences about every method.
func alls() []test {
	return []test{
		{"share no memory with their callers", func(s *suite) { s.isolation() }},
		{"do nothing for a caller that is gone", func(s *suite) { s.cancellation() }},
	}
}

// scribble writes into everything that rec points to.
func scribble(rec promise.Record) {
	in := rec.Call.Input
	in.Args[0], in.Files[0].Name = "scribbled", "scribbled"
	in.Env["A"], in.Tags["team"] = "scribbled", "scribbled"
	for i := range rec.Attempts {
		rec.Attempts[i].Worker = "scribbled"
	}
	if rec.State.Terminal() {
		rec.Outcome.Result.Inline[0], rec.Outcome.Stdout.Tail[0] = '!', '!'
	}
}

func (s *suite) isolation() {
	want := settled(record("P.1"))
	given := store.Clone(want)
	given.Rev = 1
	want.Rev = 1
	s.create(given)
	scribble(given)
	s.holds(want)
	for range 2 { // what the reads before returned was scribbled upon
		got, err := s.Get(s.Context(), "P.1")
		s.ok(err)
		s.same(got, want)
		scribble(got)
		page, err := s.List(s.Context(), store.Query{Owner: "local", Limit: 1})
		s.ok(err)
		s.same(page.Records[0], want)
		scribble(page.Records[0])
		found, err := s.Children(s.Context(), "P", "", 1)
		s.ok(err)
		s.same(found[0], want)
		scribble(found[0])
		var refused *store.Refused
		if err := s.Create(s.Context(), record("P.1")); !errors.As(err, &refused) {
			s.Fatal(err)
		}
		s.same(refused.Stored, want)
		scribble(refused.Stored)
	}
	next := after(want)
	given = store.Clone(next)
	s.ok(s.Replace(s.Context(), given))
	scribble(given)
	maps.DeleteFunc(given.Call.Input.Env, func(string, string) bool { return true })
	s.holds(next)
}

func (s *suite) cancellation() {
	rec := record("a")
	rec.DueAt = 1
	s.create(rec)
	ctx, cause := cancelled()
	calls := map[string]func(context.Context) error{
		"Create":     func(ctx context.Context) error { return s.Create(ctx, record("b")) },
		"Replace":    func(ctx context.Context) error { return s.Replace(ctx, after(rec)) },
		"ReplaceAll": func(ctx context.Context) error { return s.ReplaceAll(ctx, []store.Write{{Record: record("c")}}) },
		"Get":        func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"Due":        func(ctx context.Context) error { _, err := s.Due(ctx, 10, 1); return err },
		"List": func(ctx context.Context) error {
			_, err := s.List(ctx, store.Query{Owner: "local", Limit: 1})
			return err
		},
		"Children": func(ctx context.Context) error { _, err := s.Children(ctx, "a", "", 1); return err },
	}
	for name, call := range calls {
		if err := call(ctx); !errors.Is(err, cause) {
			s.Errorf("%s: got %v, want the cause of the context's end", name, err)
		}
	}
	s.holds(rec)
	s.absent("b")
	s.absent("c")
}
