package queuetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"modulate/internal/queue"
)

func extends() []test {
	return []test{
		{"hides for longer", func(s *suite) {
			s.send("a")
			for hide := s.soon; ; hide *= 2 {
				d := s.receive(hide)
				if err := s.Extend(s.Context(), "cpu", d.Receipt, long); err == nil {
					break // in time
				}
			}
			s.nothing(2 * s.soon)
		}},
		{"hides for less", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			start := time.Now()
			s.ok(s.Extend(s.Context(), "cpu", d.Receipt, s.soon))
			if again := s.receive(long); again.Receives != 2 {
				s.Errorf("received %d times", again.Receives)
			}
			s.atLeast(start, s.soon)
		}},
		{"by zero wakes who waits", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			ch := s.background(s.Context(), queue.MaxWait)
			s.show(d)
			s.arrives(ch, "a")
		}},
		{"twice goes by the last", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			s.ok(s.Extend(s.Context(), "cpu", d.Receipt, long))
			s.ok(s.Extend(s.Context(), "cpu", d.Receipt, s.soon))
			s.receive(long)
		}},
		{"of a stale receipt is answered, whatever the answer", func(s *suite) {
			s.send("a")
			stale := s.receive(long)
			s.show(stale)
			s.receive(long)
			s.advisory(s.Extend(s.Context(), "cpu", stale.Receipt, long))
			for _, receipt := range []string{"", "x", "1", "1.1", "-1.-1", "99999999999999999999.1"} {
				s.advisory(s.Extend(s.Context(), "cpu", receipt, long))
			}
		}},
		{"takes 0 to MaxVisibility", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			for _, hide := range []time.Duration{-1, queue.MaxVisibility + 1} {
				if err := s.Extend(s.Context(), "cpu", d.Receipt, hide); err == nil {
					s.Errorf("hiding for %v was taken", hide)
				}
			}
			s.nothing(0)
		}},
	}
}

func deletes() []test {
	return []test{
		{"ends a message for ever", func(s *suite) {
			s.send("a", "b")
			d := s.receive(s.soon)
			other := "a"
			if string(d.Body) == "a" {
				other = "b"
			}
			s.ok(s.Delete(s.Context(), "cpu", d.Receipt))
			s.equal(s.drain("cpu"), other)
			s.nothing(2 * s.soon)
		}},
		{"of what is gone is no error", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			s.ok(s.Delete(s.Context(), "cpu", d.Receipt))
			s.ok(s.Delete(s.Context(), "cpu", d.Receipt))
			s.advisory(s.Extend(s.Context(), "cpu", d.Receipt, 0))
			s.nothing(0)
		}},
		{"of a stale receipt is answered, whatever the answer", func(s *suite) {
			s.send("a")
			stale := s.receive(long)
			s.show(stale)
			s.receive(long)
			s.advisory(s.Delete(s.Context(), "cpu", stale.Receipt))
			for _, receipt := range []string{"", "x", "1", "1.1", "-1.-1"} {
				s.advisory(s.Delete(s.Context(), "cpu", receipt))
			}
		}},
		{"after an extension still works", func(s *suite) {
			s.send("a")
			d := s.receive(long)
			s.ok(s.Extend(s.Context(), "cpu", d.Receipt, s.soon))
			s.ok(s.Delete(s.Context(), "cpu", d.Receipt))
			s.nothing(2 * s.soon)
		}},
	}
}

func buries() []test {
	return []test{
		{"takes a message out of the queue and keeps it aside", func(s *suite) {
			s.send("garbage", "b")
			d := s.receive(s.soon)
			s.ok(s.Bury(s.Context(), "cpu", d))
			s.drain("cpu")
			s.nothing(2 * s.soon)
			depth, err := s.Depth(s.Context(), "cpu")
			s.ok(err)
			if depth != (queue.Depth{InFlight: 1, Dead: 1}) {
				s.Errorf("got %+v", depth)
			}
		}},
		{"of a stale delivery is answered, whatever the answer", func(s *suite) {
			s.advisory(s.Bury(s.Context(), "cpu", queue.Delivery{Body: []byte("x"), Receipt: "x"}))
		}},
	}
}

func depths() []test {
	return []test{
		{"counts what is visible, in flight, delayed and dead", func(s *suite) {
			s.depth(queue.Depth{})
			s.send("a", "b", "c", "d")
			s.ok(s.Send(s.Context(), "cpu", []byte("e"), long/4))
			s.depth(queue.Depth{Visible: 4, Delayed: 1})
			s.receive(long)
			s.ok(s.Delete(s.Context(), "cpu", s.receive(long).Receipt))
			s.ok(s.Bury(s.Context(), "cpu", s.receive(long)))
			s.depth(queue.Depth{Visible: 1, InFlight: 1, Delayed: 1, Dead: 1})
			other, err := s.Depth(s.Context(), "gpu")
			s.ok(err)
			if other != (queue.Depth{}) {
				s.Errorf("gpu: %+v", other)
			}
		}},
		{"counts a message that is visible again as visible", func(s *suite) {
			s.send("a")
			s.show(s.receive(long))
			s.depth(queue.Depth{Visible: 1})
		}},
	}
}

func (s *suite) depth(want queue.Depth) {
	s.Helper()
	got, err := s.Depth(s.Context(), "cpu")
	s.ok(err)
	if got != want {
		s.Errorf("got %+v, want %+v", got, want)
	}
}

// calls are all methods, with a message of cpu in flight.
func (s *suite) calls() map[string]func(ctx context.Context, machine string) error {
	s.send("a")
	d := s.receive(long)
	return map[string]func(context.Context, string) error{
		"Send": func(ctx context.Context, machine string) error { return s.Send(ctx, machine, []byte("b"), 0) },
		"Receive": func(ctx context.Context, machine string) error {
			_, err := s.Receive(ctx, machine, 1, 0, 0)
			return err
		},
		"Extend": func(ctx context.Context, machine string) error { return s.Extend(ctx, machine, d.Receipt, 0) },
		"Delete": func(ctx context.Context, machine string) error { return s.Delete(ctx, machine, d.Receipt) },
		"Bury":   func(ctx context.Context, machine string) error { return s.Bury(ctx, machine, d) },
		"Depth": func(ctx context.Context, machine string) error {
			_, err := s.Depth(ctx, machine)
			return err
		},
	}
}

// alls are the sentences about every method.
func alls() []test {
	return []test{
		{"know no other machine", func(s *suite) {
			for name, call := range s.calls() {
				if err := call(s.Context(), "unknown"); !errors.Is(err, queue.ErrNoQueue) {
					s.Errorf("%s: got %v, want ErrNoQueue", name, err)
				}
			}
			machines, err := s.Machines(s.Context())
			s.ok(err)
			s.equal(machines, "cpu", "gpu")
			s.depth(queue.Depth{InFlight: 1})
		}},
		{"do nothing for a caller that is gone", func(s *suite) {
			cause := errors.New("the caller is gone")
			ctx, cancel := context.WithCancelCause(s.Context())
			cancel(cause)
			for name, call := range s.calls() {
				if err := call(ctx, "cpu"); !errors.Is(err, cause) {
					s.Errorf("%s: got %v, want the cause of the context's end", name, err)
				}
			}
			s.depth(queue.Depth{InFlight: 1})
		}},
		{"share no memory with their callers", func(s *suite) {
			body := []byte("body")
			s.ok(s.Send(s.Context(), "cpu", body, 0))
			copy(body, "XXXX")
			for range 3 {
				d := s.receive(long)
				s.show(d)
				if !slices.Equal(d.Body, []byte("body")) {
					s.Errorf("got %q", d.Body)
				}
				copy(d.Body, "YYYY")
			}
		}},
	}
}
