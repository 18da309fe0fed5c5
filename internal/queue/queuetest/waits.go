package queuetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"modulate/internal/queue"
)

// arrival is what a Receive in the background returned.
type arrival struct {
	got []queue.Delivery
	err error
}

// background starts a Receive that waits.
func (s *suite) background(ctx context.Context, wait time.Duration) <-chan arrival {
	ch := make(chan arrival, 1)
	go func() {
		got, err := s.Receive(ctx, "cpu", 1, long, wait)
		ch <- arrival{got, err}
	}()
	return ch
}

// arrives checks that a Receive in the background returns that body.
func (s *suite) arrives(ch <-chan arrival, body string) {
	s.Helper()
	select {
	case a := <-ch:
		s.ok(a.err)
		if len(a.got) != 1 || string(a.got[0].Body) != body {
			s.Errorf("got %d messages, want %q", len(a.got), body)
		}
	case <-time.After(patience):
		s.Fatalf("%q did not arrive", body)
	}
}

func waits() []test {
	return []test{
		{"is over at once without wait", func(s *suite) { s.nothing(0) }},
		{"is over when wait is, with nothing", func(s *suite) {
			start := time.Now()
			s.nothing(s.soon)
			s.atLeast(start, s.soon)
		}},
		{"is over as soon as a message is sent", func(s *suite) {
			ch := s.background(s.Context(), queue.MaxWait)
			s.send("a")
			s.arrives(ch, "a")
		}},
		{"is over when a message becomes visible again", func(s *suite) {
			s.send("a")
			start := time.Now()
			s.receive(s.soon)
			s.arrives(s.background(s.Context(), queue.MaxWait), "a")
			s.atLeast(start, s.soon)
		}},
		{"is over when a message is sent that becomes visible earlier", func(s *suite) {
			s.ok(s.Send(s.Context(), "cpu", []byte("later"), queue.MaxDelay))
			ch := s.background(s.Context(), queue.MaxWait)
			s.ok(s.Send(s.Context(), "cpu", []byte("soon"), s.soon))
			s.arrives(ch, "soon")
		}},
		{"of many gives each one message", func(s *suite) {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() { s.arrives(s.background(s.Context(), queue.MaxWait), "x") })
			}
			for range 10 {
				s.send("x")
			}
			all.Wait()
			s.nothing(0)
		}},
		{"ends with ctx, and keeps nothing", func(s *suite) {
			cause := errors.New("draining")
			ctx, cancel := context.WithCancelCause(s.Context())
			ch := s.background(ctx, queue.MaxWait)
			cancel(cause)
			if a := <-ch; !errors.Is(a.err, cause) || len(a.got) != 0 {
				s.Errorf("got %d messages and %v, want the cause of ctx's end", len(a.got), a.err)
			}
			s.send("a")
			s.arrives(s.background(s.Context(), queue.MaxWait), "a")
		}},
		{"of one that is gone leaves the message to the next", func(s *suite) {
			ctx, cancel := context.WithCancel(s.Context())
			gone := s.background(ctx, queue.MaxWait)
			next := s.background(s.Context(), queue.MaxWait)
			cancel()
			<-gone
			s.send("a")
			s.arrives(next, "a")
		}},
	}
}
