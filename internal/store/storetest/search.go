package storetest

import (
	"context"
	"errors"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func searches() []test {
	return []test{
		{"goes through everything in the order of ids", func(s *suite) {
			all := s.Store.(store.Searcher)
			for _, id := range []string{"b", "a.2", "a", "a:1", "Z", "%C3%A4", promise.ScheduleID("s"), "a-1"} {
				s.create(record(id))
			}
			want := []string{"%C3%A4", "%schedule:s", "Z", "a", "a-1", "a.2", "a:1", "b"}
			for limit := 1; limit <= len(want)+1; limit++ {
				var got []string
				for after := ""; ; after = got[len(got)-1] {
					page, err := all.Search(s.Context(), after, limit)
					s.ok(err)
					got = append(got, ids(page)...)
					if len(page) < limit {
						break
					}
				}
				s.equal(got, want)
			}
			page, err := all.Search(s.Context(), "", 0)
			s.ok(err)
			s.equal(ids(page), nil)
		}},
		{"sees every write, and goes on after an id that is not there", func(s *suite) {
			all := s.Store.(store.Searcher)
			s.create(record("a"))
			s.ok(s.Replace(s.Context(), settled(record("a"))))
			page, err := all.Search(s.Context(), "Z", 10)
			s.ok(err)
			if len(page) != 1 {
				s.Fatalf("%d records", len(page))
			}
			s.same(page[0], settled(record("a")))
		}},
		{"does nothing for a caller that is gone", func(s *suite) {
			ctx, cause := cancelled()
			if _, err := search(ctx, s); !errors.Is(err, cause) {
				s.Errorf("%v", err)
			}
		}},
	}
}

func search(ctx context.Context, s *suite) ([]promise.Record, error) {
	return s.Store.(store.Searcher).Search(ctx, "", 1)
}
