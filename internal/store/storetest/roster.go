package storetest

import (
	"context"
	"errors"
	"reflect"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func rosters() []test {
	presence := func(worker, machine string, seen promise.Time) store.Presence {
		return store.Presence{Worker: worker, Machine: machine, Slots: 4, Running: 1, Started: 5, Seen: seen}
	}
	return []test{
		{"shows who announced itself since, by machine and name", func(s *suite) {
			r := s.roster()
			b, a, c, old := presence("b", "gpu", 20), presence("a", "gpu", 30), presence("z", "cpu", 20), presence("o", "cpu", 19)
			for _, p := range []store.Presence{b, a, c, old} {
				s.ok(r.Announce(s.Context(), p))
			}
			s.present(r, 20, c, a, b)
			s.present(r, 19, old, c, a, b)
			s.present(r, 31)
		}},
		{"knows a worker as it last announced itself", func(s *suite) {
			r := s.roster()
			s.ok(r.Announce(s.Context(), presence("a", "gpu", 20)))
			again := store.Presence{Worker: "a", Machine: "cpu", Slots: 8, Running: 7, Started: 6, Seen: 40}
			s.ok(r.Announce(s.Context(), again))
			s.present(r, 1, again)
		}},
		{"forgets who retires, but never a machine", func(s *suite) {
			r := s.roster()
			s.ok(r.Announce(s.Context(), presence("a", "gpu", 20)))
			s.ok(r.Announce(s.Context(), presence("b", "cpu", 20)))
			s.ok(r.Announce(s.Context(), presence("c", "cpu", 20)))
			s.ok(r.Retire(s.Context(), "a"))
			s.ok(r.Retire(s.Context(), "unknown"))
			s.present(r, 1, presence("b", "cpu", 20), presence("c", "cpu", 20))
			machines, err := r.Machines(s.Context())
			s.ok(err)
			s.equal(machines, []string{"cpu", "gpu"})
		}},
		{"is empty at first", func(s *suite) {
			r := s.roster()
			s.present(r, 0)
			machines, err := r.Machines(s.Context())
			s.ok(err)
			s.equal(machines, nil)
		}},
		{"does nothing for a caller that is gone", func(s *suite) {
			r := s.roster()
			ctx, cause := cancelled()
			for name, call := range map[string]func(context.Context) error{
				"Announce": func(ctx context.Context) error { return r.Announce(ctx, presence("a", "gpu", 1)) },
				"Retire":   func(ctx context.Context) error { return r.Retire(ctx, "a") },
				"Present":  func(ctx context.Context) error { _, err := r.Present(ctx, 0); return err },
				"Machines": func(ctx context.Context) error { _, err := r.Machines(ctx); return err },
			} {
				if err := call(ctx); !errors.Is(err, cause) {
					s.Errorf("%s: got %v, want the cause of the context's end", name, err)
				}
			}
			s.present(r, 0)
		}},
	}
}

func (s *suite) roster() store.Roster {
	s.Helper()
	r, ok := s.Store.(store.Roster)
	if !ok {
		s.Skip("this store keeps no roster, which is allowed")
	}
	return r
}

func (s *suite) present(r store.Roster, since promise.Time, want ...store.Presence) {
	s.Helper()
	got, err := r.Present(s.Context(), since)
	s.ok(err)
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		s.Errorf("got  %+v\nwant %+v", got, want)
	}
}
