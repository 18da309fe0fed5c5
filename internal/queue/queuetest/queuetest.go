// Package queuetest is the conformance suite of package queue's port. Every
// implementation runs it; a subtest stands for a sentence of the contract.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"modulate/internal/queue"
)

// Run runs the suite over the queues that open returns: each empty, with the
// machines cpu and gpu and no other.
func Run(t *testing.T, open func(t *testing.T) queue.Queue) {
	run(t, suite{soon: 40 * time.Millisecond}, open)
}

// RunSeconds is [Run] for queues that count in whole seconds. Its subtests run
// in parallel, for most of them wait.
func RunSeconds(t *testing.T, open func(t *testing.T) queue.Queue) {
	run(t, suite{soon: time.Second, parallel: true}, open)
}

func run(t *testing.T, s suite, open func(t *testing.T) queue.Queue) {
	for _, group := range []struct {
		name  string
		tests func() []test
	}{
		{"Send", sends}, {"Receive", receives}, {"Wait", waits}, {"Extend", extends},
		{"Delete", deletes}, {"Bury", buries}, {"Depth", depths}, {"All", alls},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests() {
				t.Run(test.name, func(t *testing.T) {
					if s.parallel {
						t.Parallel()
					}
					s := s
					s.T, s.Queue = t, open(t)
					test.run(&s)
				})
			}
		})
	}
}

type test struct {
	name string
	run  func(*suite)
}

// suite is one test and its queue.
type suite struct {
	*testing.T
	queue.Queue
	soon     time.Duration // a time that passes during a test
	parallel bool
}

const (
	// long is a time that does not pass during a test.
	long = time.Hour
	// patience is how long the suite waits for what must happen.
	patience = 10 * time.Second
	// slack is what clocks of milliseconds may be off.
	slack = 2 * time.Millisecond
)

// ok ends the test if err is not nil.
func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// send sends bodies to cpu, visible at once.
func (s *suite) send(bodies ...string) {
	s.Helper()
	for _, body := range bodies {
		s.ok(s.Send(s.Context(), "cpu", []byte(body), 0))
	}
}

// receive receives one message that is there or comes, and hides it.
func (s *suite) receive(hide time.Duration) queue.Delivery {
	s.Helper()
	got, err := s.Receive(s.Context(), "cpu", 1, hide, patience)
	s.ok(err)
	if len(got) != 1 {
		s.Fatalf("received %d messages, want 1", len(got))
	}
	return got[0]
}

// show makes what was received visible again, at once.
func (s *suite) show(d queue.Delivery) {
	s.Helper()
	s.ok(s.Extend(s.Context(), "cpu", d.Receipt, 0))
}

// nothing checks that no message is visible during wait.
func (s *suite) nothing(wait time.Duration) {
	s.Helper()
	got, err := s.Receive(s.Context(), "cpu", 1, long, wait)
	s.ok(err)
	if len(got) != 0 {
		s.Errorf("received %q, want nothing", got[0].Body)
	}
}

// drain receives all that is visible, and returns the bodies sorted.
func (s *suite) drain(machine string) []string {
	s.Helper()
	var bodies []string
	for {
		got, err := s.Receive(s.Context(), machine, queue.MaxReceive, long, 0)
		s.ok(err)
		if len(got) == 0 {
			slices.Sort(bodies)
			return bodies
		}
		for _, d := range got {
			bodies = append(bodies, string(d.Body))
		}
	}
}

func (s *suite) equal(got []string, want ...string) {
	s.Helper()
	if !slices.Equal(got, want) {
		s.Errorf("got %q, want %q", got, want)
	}
}

// advisory checks that err is nil or ErrReceipt: both are allowed answers to a
// stale receipt.
func (s *suite) advisory(err error) {
	s.Helper()
	if err != nil && !errors.Is(err, queue.ErrReceipt) {
		s.Errorf("got %v, want nil or ErrReceipt", err)
	}
}

// atLeast checks that no less than d has passed since start.
func (s *suite) atLeast(start time.Time, d time.Duration) {
	s.Helper()
	if passed := time.Since(start); passed < d-slack {
		s.Errorf("visible after %v, want %v at least", passed, d)
	}
}

func sends() []test {
	return []test{
		{"delivers the body as it was, once", func(s *suite) {
			body := `{"v":1,"id":"a","version":0} <>&"'` + "\t\n"
			before := time.Now().Add(-slack)
			s.send(body)
			d := s.receive(long)
			if string(d.Body) != body || d.Receives != 1 || d.Receipt == "" {
				s.Errorf("got %q, received %d times, receipt %q", d.Body, d.Receives, d.Receipt)
			}
			if at := d.SentAt.Std(); at.Before(before) || at.After(time.Now().Add(slack)) {
				s.Errorf("sent at %v, want about %v", at, before)
			}
			s.nothing(0)
		}},
		{"keeps machines apart", func(s *suite) {
			s.send("for cpu")
			s.ok(s.Send(s.Context(), "gpu", []byte("for gpu"), 0))
			s.equal(s.drain("gpu"), "for gpu")
			s.equal(s.drain("cpu"), "for cpu")
		}},
		{"keeps equal bodies apart", func(s *suite) {
			s.send("same", "same")
			s.equal(s.drain("cpu"), "same", "same")
		}},
		{"hides for the delay, and no longer", func(s *suite) {
			start := time.Now()
			s.ok(s.Send(s.Context(), "cpu", []byte("delayed"), s.soon))
			d := s.receive(long)
			s.atLeast(start, s.soon)
			if d.Receives != 1 {
				s.Errorf("received %d times", d.Receives)
			}
		}},
		{"lets others overtake a delayed message", func(s *suite) {
			s.ok(s.Send(s.Context(), "cpu", []byte("delayed"), queue.MaxDelay))
			s.send("at once")
			s.equal(s.drain("cpu"), "at once")
		}},
		{"takes a delay of 0 to MaxDelay", func(s *suite) {
			for _, delay := range []time.Duration{-1, queue.MaxDelay + 1} {
				if err := s.Send(s.Context(), "cpu", []byte("x"), delay); err == nil {
					s.Errorf("a delay of %v was taken", delay)
				}
			}
			s.nothing(0)
		}},
	}
}

func receives() []test {
	return []test{
		{"takes up to limit", func(s *suite) {
			for i := range 25 {
				s.send(fmt.Sprintf("%02d", i))
			}
			var all []string
			for len(all) < 25 {
				got, err := s.Receive(s.Context(), "cpu", 4, long, 0)
				s.ok(err)
				if len(got) == 0 || len(got) > 4 {
					s.Fatalf("received %d messages at a limit of 4", len(got))
				}
				for _, d := range got {
					all = append(all, string(d.Body))
				}
			}
			slices.Sort(all)
			if len(slices.Compact(all)) != 25 {
				s.Errorf("got %q", all)
			}
		}},
		{"hides what it takes, and no longer than asked", func(s *suite) {
			for _, hide := range []time.Duration{0, s.soon} {
				s.send("a")
				start := time.Now()
				first := s.receive(hide)
				second := s.receive(long)
				s.atLeast(start, hide)
				if second.Receives != 2 || second.SentAt != first.SentAt || string(second.Body) != "a" {
					s.Errorf("first %+v, then %+v", first, second)
				}
				if second.Receipt == first.Receipt {
					s.Errorf("both have receipt %q", first.Receipt)
				}
				s.nothing(0)
			}
		}},
		{"counts every receive", func(s *suite) {
			s.send("a")
			for i := range 5 {
				d := s.receive(long)
				if d.Receives != i+1 {
					s.Errorf("receive %d is counted as %d", i+1, d.Receives)
				}
				s.show(d)
			}
		}},
		{"by many at once gives each message to one", func(s *suite) { s.share() }},
		{"takes only what the limits allow", func(s *suite) {
			for _, c := range []struct {
				limit      int
				hide, wait time.Duration
			}{
				{0, 0, 0}, {-1, 0, 0}, {queue.MaxReceive + 1, 0, 0},
				{1, -1, 0}, {1, queue.MaxVisibility + 1, 0}, {1, 0, -1}, {1, 0, queue.MaxWait + 1},
			} {
				if _, err := s.Receive(s.Context(), "cpu", c.limit, c.hide, c.wait); err == nil {
					s.Errorf("%+v was taken", c)
				}
			}
		}},
	}
}

// share has receivers compete for messages while these are sent.
func (s *suite) share() {
	const receivers, messages = 8, 100
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	got := make(chan string, messages)
	ended := make(chan error, receivers)
	for i := range receivers {
		go func() {
			for {
				ds, err := s.Receive(ctx, "cpu", 1+i%3, long, patience)
				if err != nil {
					ended <- err
					return
				}
				for _, d := range ds {
					got <- string(d.Body)
				}
			}
		}()
	}
	for i := range messages {
		s.send(fmt.Sprint(i))
	}
	seen := map[string]bool{}
	for range messages {
		select {
		case body := <-got:
			if seen[body] {
				s.Errorf("message %s was given to two", body)
			}
			seen[body] = true
		case <-ctx.Done():
			s.Fatalf("%d of %d messages", len(seen), messages)
		}
	}
	cancel()
	for range receivers {
		<-ended
	}
}
