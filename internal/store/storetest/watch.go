package storetest

import (
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

func watches() []test {
	return []test{
		{"wakes after each way to write", func(s *suite) {
			w := s.watcher()
			changed, stop := w.Watch("a")
			defer stop()
			rec := record("a")
			s.create(rec)
			s.wakes(changed)
			s.ok(s.Replace(s.Context(), after(rec)))
			s.wakes(changed)
			s.ok(s.ReplaceAll(s.Context(), []store.Write{{Record: after(after(rec))}, {Record: record("b")}}))
			s.wakes(changed)
		}},
		{"tells of changes made before it is listened to", func(s *suite) {
			w := s.watcher()
			rec := record("a")
			s.create(rec)
			changed, stop := w.Watch("a")
			defer stop()
			s.ok(s.Replace(s.Context(), after(rec)))
			s.ok(s.Replace(s.Context(), after(after(rec)))) // merged
			s.wakes(changed)
		}},
		{"wakes everyone, and nobody who has stopped", func(s *suite) {
			w := s.watcher()
			first, stopFirst := w.Watch("a")
			second, stopSecond := w.Watch("a")
			third, stopThird := w.Watch("a")
			defer stopSecond()
			defer stopThird()
			stopFirst()
			s.create(record("a"))
			s.wakes(second)
			s.wakes(third)
			select {
			case <-first:
				s.Error("a watch that was stopped still wakes")
			default:
			}
		}},
		{"wakes who waits for the end at the end, and not before", func(s *suite) {
			w := s.watcher()
			rec := record("a")
			s.create(rec)
			ended, stopEnded := w.WatchEnd("a")
			defer stopEnded()
			changed, stop := w.Watch("a")
			defer stop()
			s.ok(s.Replace(s.Context(), after(rec)))
			s.wakes(changed)
			select {
			case <-ended:
				s.Error("woken by a change that is not the end")
			default:
			}
			last := after(after(rec))
			last.State, last.SettledAt = promise.Resolved, last.CreatedAt+1
			s.ok(s.Replace(s.Context(), last))
			s.wakes(ended)
		}},
		{"may be used from many goroutines", func(s *suite) {
			w := s.watcher()
			var all sync.WaitGroup
			for range 20 {
				changed, stop := w.Watch("a")
				all.Go(func() {
					defer stop()
					s.wakes(changed)
				})
			}
			s.create(record("a"))
			all.Wait()
		}},
	}
}

// watcher returns the store as a Watcher: others are not tested as one.
func (s *suite) watcher() store.Watcher { return s.Store.(store.Watcher) }

func (s *suite) wakes(changed <-chan struct{}) {
	s.Helper()
	select {
	case <-changed:
	case <-time.After(patience):
		s.Error("not woken")
	}
}
