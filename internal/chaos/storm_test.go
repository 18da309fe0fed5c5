//go:build linux

package chaos

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// A storm strikes its victims in turn, each so often, spread over the starts of
// so many scripts.
type storm struct {
	submissions int
	lease       time.Duration
	strikes     int // of each victim
	victims     []*victim
	strike      func(*victim)
}

// A victim is a process that is killed and started again, over and over.
type victim struct {
	process *child
	restart func() *child
}

// Server and two workers killed with kill -9, at least 20 times each, while
// 1,000 submissions run: none lost, none settled twice, no attempt that the
// witness knows and the store does not.
func TestServerAndTwoWorkersKilledTwentyTimesEach(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 4*time.Minute), newWorld(t)
	s := storm{submissions: 1000, lease: lease, strikes: 20, victims: []*victim{
		{restart: func() *child { return w.dev(ctx, t, "--machines", "cpu:2") }},
		{restart: func() *child { return w.worker(t, "a", "--slots", "2") }},
		{restart: func() *child { return w.worker(t, "b", "--slots", "2") }},
	}}
	if testing.Short() {
		s.submissions, s.strikes = 150, 3
	}
	server := s.victims[0]
	s.strike = func(v *victim) {
		if v == server {
			w.front.set("")
		}
		v.process.kill()
	}
	w.rage(ctx, t, s)
	w.check(ctx, t)
}

// Workers stopped by SIGTERM again and again while submissions run: what they
// were running starts elsewhere, and neither a retry nor a crash is spent.
func TestStoppedWorkersSpendNothing(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	// A lease so long that none is lost, however slow the machine.
	s := storm{submissions: 120, lease: time.Minute, strikes: 5, victims: []*victim{
		{restart: func() *child { return w.worker(t, "a", "--slots", "2", "--drain", "0s", "--no-sweep") }},
		{restart: func() *child { return w.worker(t, "b", "--slots", "2", "--drain", "0s", "--no-sweep") }},
	}}
	s.strike = func(v *victim) {
		if code := v.process.stop(ctx, t); code != 0 {
			t.Errorf("%s exited with %d, want 0", v.process.name, code)
		}
	}
	w.rage(ctx, t, s)
	for id, forms := range w.history(ctx, t) {
		if last := forms[len(forms)-1]; last.Crashes != 0 || last.Retries != 0 {
			t.Errorf("%s: %d crashes and %d retries were spent, want none: %+v", id, last.Crashes, last.Retries, last.Attempts)
		}
	}
	w.check(ctx, t)
}

// rage has the storm go over the world until every submission has ended, and
// stops its victims.
func (w *world) rage(ctx context.Context, t *testing.T, s storm) {
	t.Helper()
	for _, v := range s.victims {
		v.process = v.restart()
	}
	all := flood(ctx, s.submissions, 64, func(ctx context.Context, name string) error { return w.one(ctx, name, s.lease) })
	every := s.submissions * 9 / 10 / (len(s.victims) * s.strikes)
	for i := range len(s.victims) * s.strikes {
		if err := w.witness.awaitCount(ctx, (i+1)*every, started); err != nil {
			t.Fatalf("before strike %d: scripts started: %v", i+1, err)
		}
		v := s.victims[i%len(s.victims)]
		s.strike(v)
		v.process = v.restart()
	}
	w.aMinuteLater(ctx, t) // for messages that went down with a process
	if err := all(); err != nil {
		t.Fatal(err)
	}
	for _, v := range s.victims {
		v.process.stop(ctx, t)
	}
}

// flood does n submissions by that many callers, each of whom does one after
// the other. The function that it returns waits for all.
func flood(ctx context.Context, n, callers int, submit func(ctx context.Context, name string) error) (wait func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	numbers := make(chan int)
	go func() {
		defer close(numbers)
		for i := range n {
			select {
			case numbers <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := range numbers {
				if err := submit(ctx, fmt.Sprintf("%04d", i)); err != nil {
					cancel(err)
				}
			}
		})
	}
	return func() error {
		all.Wait()
		defer cancel(nil)
		return context.Cause(ctx)
	}
}

// one submits a short script and waits for its end.
func (w *world) one(ctx context.Context, name string, lease time.Duration) error {
	call := w.call(name, "time.sleep(0.01)\nnote(\"end\")\n")
	*call.LeaseMS = lease.Milliseconds()
	var p api.Promise
	err := w.insist(ctx, func() (err error) {
		p, _, err = w.client.Submit(ctx, call, api.SubmitOptions{Wait: 10 * time.Second})
		return err
	})
	if err == nil {
		p, err = w.wait(ctx, call.ID)
	}
	if err != nil {
		return fmt.Errorf("submission %s: %w", call.ID, err)
	}
	if p.State != promise.Resolved.String() && p.Outcome.Cause != string(promise.CauseExhausted) {
		return fmt.Errorf("submission %s is %s (%s), want resolved", call.ID, p.State, p.Outcome.Cause)
	}
	return nil
}

func started(e entry) bool { return e.what == "start" }
