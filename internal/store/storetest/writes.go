package storetest

import (
	"errors"
	"fmt"
	"sync"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func creates() []test {
	return []test{
		{"writes a record whose id is free", func(s *suite) {
			rec := record("a")
			s.create(rec)
			s.holds(rec)
		}},
		{"is refused by the record that has the id", func(s *suite) {
			first, second := record("a"), record("a")
			second.WriteID, second.Owner = nonce("other", 1), "somebody"
			s.create(first)
			s.refused(s.Create(s.Context(), second), first)
			s.holds(first)
		}},
		{"repeated, is refused by our own write", func(s *suite) {
			rec := record("a")
			s.create(rec)
			s.refused(s.Create(s.Context(), rec), rec)
		}},
		{"takes only rev 1", func(s *suite) {
			s.fails(s.Create(s.Context(), after(record("a"))), "creating at rev 2")
			s.absent("a")
		}},
		{"of many at once, one wins", func(s *suite) {
			s.race(20, func(client int) promise.Record {
				rec := record("a")
				rec.WriteID = nonce("client", uint64(client))
				return rec
			}, s.Create)
		}},
		{"of many ids at once, all win", func(s *suite) {
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					if err := s.Create(s.Context(), record(fmt.Sprintf("a%d", i))); err != nil {
						s.Error(err)
					}
				})
			}
			all.Wait()
			for i := range 50 {
				s.holds(record(fmt.Sprintf("a%d", i)))
			}
		}},
	}
}

func gets() []test {
	return []test{
		{"of an unknown id is ErrNotFound", func(s *suite) {
			s.create(record("a1"))
			s.absent("a")
			s.absent("a10")
			s.absent("A1")
		}},
		{"returns every field", func(s *suite) {
			rec := settled(after(record("a")))
			rec.Rev, rec.Cascade, rec.Mode, rec.Parent = 1, true, promise.RPC, "p"
			s.create(rec)
			s.holds(rec)
		}},
		{"tells ids apart that differ in one character", func(s *suite) {
			for _, id := range []string{"a", "A", "a.1", "a:1", "a_1", "a-1", "a1", "a.10", "a.1.1"} {
				s.create(record(id))
			}
			for _, id := range []string{"a", "A", "a.1", "a:1", "a_1", "a-1", "a1", "a.10", "a.1.1"} {
				s.holds(record(id))
			}
		}},
		{"sees every write that was acknowledged", func(s *suite) {
			rec := record("a")
			s.create(rec)
			for range 50 {
				rec = after(rec)
				rec.Attempts = nil
				s.ok(s.Replace(s.Context(), rec))
				s.holds(rec)
			}
		}},
	}
}

func replaces() []test {
	return []test{
		{"writes over the rev before", func(s *suite) {
			first := record("a")
			s.create(first)
			second := settled(first)
			s.ok(s.Replace(s.Context(), second))
			s.holds(second)
		}},
		{"is refused by any other rev", func(s *suite) {
			rec := record("a")
			s.create(rec)
			second := after(rec)
			s.ok(s.Replace(s.Context(), second))
			s.refused(s.Replace(s.Context(), second), second) // again
			stale := after(rec)
			stale.WriteID = nonce("other", 2)
			s.refused(s.Replace(s.Context(), stale), second)
			s.refused(s.Replace(s.Context(), after(after(second))), second) // ahead
			s.holds(second)
		}},
		{"of an unknown id is refused by nothing", func(s *suite) {
			s.refused(s.Replace(s.Context(), after(record("a"))), promise.Record{})
			s.absent("a")
		}},
		{"takes no rev below 2", func(s *suite) {
			s.create(record("a"))
			s.fails(s.Replace(s.Context(), record("a")), "replacing by rev 1")
			s.holds(record("a"))
		}},
		{"of many at once, one wins and the others learn by what", func(s *suite) {
			rec := record("a")
			s.create(rec)
			for range 5 {
				rec = s.race(20, func(client int) promise.Record {
					next := after(rec)
					next.WriteID = nonce("client", uint64(client)<<32|next.Rev)
					return next
				}, s.Replace)
			}
		}},
	}
}

// race lets clients write at once under one guard. One must win, the others be
// refused by it; it returns the winner.
func (s *suite) race(clients int, make func(client int) promise.Record, write writer) promise.Record {
	s.Helper()
	recs, errs := []promise.Record{}, []error{}
	for client := range clients {
		recs = append(recs, make(client))
		errs = append(errs, nil)
	}
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() { errs[client] = write(s.Context(), recs[client]) })
	}
	all.Wait()
	var won []promise.Record
	for client, err := range errs {
		if err == nil {
			won = append(won, recs[client])
		} else if !errors.Is(err, store.ErrRefused) {
			s.Fatal(err)
		}
	}
	if len(won) != 1 {
		s.Fatalf("%d of %d writers under one guard won", len(won), clients)
	}
	for _, err := range errs {
		if err != nil {
			s.refused(err, won[0])
		}
	}
	s.holds(won[0])
	return won[0]
}
