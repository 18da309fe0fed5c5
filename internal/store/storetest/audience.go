package storetest

import (
	"context"
	"errors"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func audiences() []test {
	return []test{
		{"knows until when each output is followed", func(s *suite) {
			a := s.Store.(store.Audience)
			s.followed(a, "x", 0)
			s.ok(a.Follow(s.Context(), "x", 5_000))
			s.ok(a.Follow(s.Context(), "x.1", 7_000))
			s.followed(a, "x", 5_000)
			s.followed(a, "x.1", 7_000)
			s.followed(a, "x.2", 0)
		}},
		{"goes by the last note", func(s *suite) {
			a := s.Store.(store.Audience)
			s.ok(a.Follow(s.Context(), "x", 9_000))
			s.followed(a, "x", 9_000)
			s.ok(a.Follow(s.Context(), "x", 5_000))
			s.followed(a, "x", 5_000)
		}},
		{"shows no promise where there is none", func(s *suite) {
			s.ok(s.Store.(store.Audience).Follow(s.Context(), "x", 5_000))
			if _, err := s.Get(s.Context(), "x"); !errors.Is(err, store.ErrNotFound) {
				s.Errorf("got %v, want ErrNotFound", err)
			}
			found, err := s.Store.(store.Searcher).Search(s.Context(), "", 10)
			s.ok(err)
			if len(found) > 0 {
				s.Errorf("found %+v", found)
			}
		}},
		{"does nothing for a caller that is gone", func(s *suite) {
			a := s.Store.(store.Audience)
			ctx, cause := cancelled()
			for name, call := range map[string]func(context.Context) error{
				"Follow":   func(ctx context.Context) error { return a.Follow(ctx, "x", 5_000) },
				"Followed": func(ctx context.Context) error { _, err := a.Followed(ctx, "x"); return err },
			} {
				if err := call(ctx); !errors.Is(err, cause) {
					s.Errorf("%s: got %v, want the cause of the context's end", name, err)
				}
			}
			s.followed(a, "x", 0)
		}},
	}
}

// followed waits for what an audience may know a little later.
func (s *suite) followed(a store.Audience, id string, want promise.Time) {
	s.Helper()
	for end := time.Now().Add(patience); ; {
		got, err := a.Followed(s.Context(), id)
		s.ok(err)
		if got == want {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s is followed until %d, want %d", id, got, want)
		}
	}
}
