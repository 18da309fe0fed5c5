package storetest

import (
	"context"
	"errors"
	"fmt"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// writer is Create or Replace.
type writer func(context.Context, promise.Record) error

func replaceAlls() []test {
	return []test{
		{"does all", func(s *suite) {
			a, b := record("a"), record("b")
			s.create(a)
			s.ok(s.ReplaceAll(s.Context(), []store.Write{{Record: after(a)}, {Record: b}}))
			s.holds(after(a))
			s.holds(b)
		}},
		{"does none if a guard does not hold, and names the first", func(s *suite) {
			a, b, c, d := record("a"), record("b"), record("c"), record("d")
			s.create(b, c)
			err := s.ReplaceAll(s.Context(), []store.Write{
				{Record: a}, {Record: after(b)}, {Record: after(after(c))}, {Record: after(d)},
			})
			s.refused(err, c)
			s.absent("a")
			s.holds(b)
			s.holds(c)
			s.absent("d")
		}},
		{"writes nothing under a check that holds", func(s *suite) {
			parent, child := record("p"), record("p.1")
			s.create(parent)
			check := parent
			check.Owner = "nobody writes this"
			s.ok(s.ReplaceAll(s.Context(), []store.Write{{Record: check, Check: true}, {Record: child}}))
			s.holds(parent)
			s.holds(child)
		}},
		{"is refused by a check of another rev", func(s *suite) {
			parent, child := record("p"), record("p.1")
			s.create(parent)
			s.ok(s.Replace(s.Context(), after(parent)))
			err := s.ReplaceAll(s.Context(), []store.Write{{Record: parent, Check: true}, {Record: child}})
			s.refused(err, after(parent))
			err = s.ReplaceAll(s.Context(), []store.Write{{Record: child}, {Record: after(after(parent)), Check: true}})
			s.refused(err, after(parent))
			s.absent("p.1")
		}},
		{"is refused by a check of an unknown id", func(s *suite) {
			err := s.ReplaceAll(s.Context(), []store.Write{{Record: record("p"), Check: true}, {Record: record("p.1")}})
			s.refused(err, promise.Record{})
			s.absent("p.1")
		}},
		{"of one check is that check", func(s *suite) {
			rec := record("a")
			s.refused(s.ReplaceAll(s.Context(), []store.Write{{Record: rec, Check: true}}), promise.Record{})
			s.create(rec)
			s.ok(s.ReplaceAll(s.Context(), []store.Write{{Record: rec, Check: true}}))
			s.holds(rec)
		}},
		{"of nothing does nothing", func(s *suite) { s.ok(s.ReplaceAll(s.Context(), nil)) }},
		{"takes MaxWrites and no more", func(s *suite) {
			var writes []store.Write
			for i := range store.MaxWrites {
				writes = append(writes, store.Write{Record: record(fmt.Sprintf("a%d", i))})
			}
			s.fails(s.ReplaceAll(s.Context(), append(writes, store.Write{Record: record("b")})), "one too many")
			s.absent("a0")
			s.ok(s.ReplaceAll(s.Context(), writes))
			for _, w := range writes {
				s.holds(w.Record)
			}
		}},
		{"takes no id twice", func(s *suite) {
			s.fails(s.ReplaceAll(s.Context(), []store.Write{{Record: record("a")}, {Record: after(record("a"))}}), "an id twice")
			s.absent("a")
		}},
		{"of a parent that many children check, lets all of them in", func(s *suite) {
			parent := record("p")
			s.create(parent)
			errs := make(chan error)
			for i := range 20 {
				go func() {
					errs <- s.ReplaceAll(s.Context(), []store.Write{
						{Record: parent, Check: true}, {Record: record(fmt.Sprintf("p.%d", i))},
					})
				}()
			}
			for range 20 {
				if err := <-errs; err != nil {
					s.Error(err)
				}
			}
		}},
		{"of two records at once, one wins both", func(s *suite) { s.raceForTwo() }},
	}
}

// raceForTwo has clients write the same two records, in both orders: whoever
// has one must have the other.
func (s *suite) raceForTwo() {
	a, b := record("a"), record("b")
	s.create(a, b)
	errs := make(chan error)
	for client := range 10 {
		a, b := after(a), after(b)
		a.WriteID, b.WriteID = nonce("client", uint64(client)), nonce("client", uint64(client))
		writes := []store.Write{{Record: a}, {Record: b}}
		if client%2 == 1 {
			writes[0], writes[1] = writes[1], writes[0]
		}
		go func() { errs <- s.ReplaceAll(s.Context(), writes) }()
	}
	won := 0
	for range 10 {
		if err := <-errs; err == nil {
			won++
		} else if !errors.Is(err, store.ErrRefused) {
			s.Error(err)
		}
	}
	gotA, err := s.Get(s.Context(), "a")
	s.ok(err)
	gotB, err := s.Get(s.Context(), "b")
	s.ok(err)
	if won != 1 || gotA.WriteID != gotB.WriteID {
		s.Errorf("%d won; a was written by %s, b by %s", won, gotA.WriteID, gotB.WriteID)
	}
}
