package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

// lone is a worker for Execute.
func (w *world) lone(does func(context.Context, runner.Job) runner.Result) *crew {
	w.t.Helper()
	c := &crew{host: w.newHost(), scripts: &scripts{does: does}}
	var err error
	c.Worker, err = New(Config{
		Engine: c.host.Engine, Name: "cli", Runner: c.scripts, Runtimes: map[string][]string{"python": nil},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestExecute(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		tries := 0
		c := w.lone(func(ctx context.Context, job runner.Job) runner.Result {
			if tries++; tries < 3 {
				return runner.Result{Code: 1}
			}
			return runner.Result{}
		})
		w.submit("a", func(r *promise.Record) {
			r.Call.Retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 5, Delay: time.Minute, MaxDelay: time.Minute}
		})
		begun := time.Now()
		rec, err := c.Execute(t.Context(), "a")
		if err != nil || rec.State != promise.Resolved || rec.Attempt != 3 || time.Since(begun) != 2*time.Minute {
			t.Errorf("state %s, attempt %d after %v: %v", rec.State, rec.Attempt, time.Since(begun), err)
		}
		if rec, err = c.Execute(t.Context(), "a"); err != nil || rec.State != promise.Resolved {
			t.Errorf("of a settled promise: %s, %v", rec.State, err)
		}
		if _, err = c.Execute(t.Context(), "none"); !errors.Is(err, promise.ErrNotFound) {
			t.Errorf("of a promise that is not there: %v", err)
		}
	})
}

// Another's attempt is waited for, and taken over when its lease is over.
func TestExecuteWaitsForAnothersLease(t *testing.T) {
	for _, c := range []struct {
		name     string
		dies     bool
		attempts uint32
		after    time.Duration
	}{{"that ends", false, 1, 10 * time.Minute}, {"that dies", true, 2, time.Minute + 36*time.Second}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				other := w.hire("w1", lasting(10*time.Minute, 0), nil)
				w.submit("a", nil)
				time.AfterFunc(time.Minute+time.Millisecond, func() { other.host.cut(c.dies) })
				begun := time.Now()
				synctest.Wait()
				rec, err := w.lone(lasting(time.Second, 0)).Execute(t.Context(), "a")
				if err != nil || rec.State != promise.Resolved || rec.Attempt != c.attempts || time.Since(begun) > c.after {
					t.Errorf("state %s, attempt %d after %v: %v", rec.State, rec.Attempt, time.Since(begun), err)
				}
			})
		})
	}
}

// Interrupted, the script is killed and the task given back at no cost.
func TestExecuteInterrupted(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause error
		takes time.Duration
	}{{"with grace", nil, time.Second}, {"at once", runner.ErrNow, 0}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				lone := w.lone(lasting(time.Hour, 0))
				w.submit("a", nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Minute, func() { cancel(c.cause) })
				begun := time.Now()
				_, err := lone.Execute(ctx, "a")
				if !errors.Is(err, context.Cause(ctx)) || time.Since(begun) != time.Minute+c.takes {
					t.Errorf("after %v: %v", time.Since(begun), err)
				}
				rec := w.get("a")
				if rec.State != promise.Pending || rec.Task.State != promise.TaskPending || rec.Drains != 1 || rec.Retries != 0 {
					t.Errorf("state %s, task %s, %d drains, %d retries", rec.State, rec.Task.State, rec.Drains, rec.Retries)
				}
				if rec, err = lone.Execute(t.Context(), "a"); err != nil || rec.Attempt != 2 {
					t.Errorf("executed again: attempt %d, %v", rec.Attempt, err)
				}
			})
		})
	}
}

func TestExecuteAborted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		lone := w.lone(lasting(time.Hour, 0))
		w.submit("a", nil)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, func() {
			lone.Abort()
			cancel()
		})
		begun := time.Now()
		if _, err := lone.Execute(ctx, "a"); !errors.Is(err, context.Canceled) || time.Since(begun) != time.Minute {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}

// An outcome that the store did not take is settled late here as well.
func TestExecuteSettlesLate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var h *host
		lone := w.lone(func(ctx context.Context, job runner.Job) runner.Result {
			return endsCutOff(&h, time.Second, time.Hour, 4)(ctx, job)
		})
		h = lone.host
		w.submit("a", nil)
		rec, err := lone.Execute(t.Context(), "a")
		if err != nil || rec.Outcome.ExitCode != 4 || rec.Attempt != 1 || len(lone.scripts.started()) != 1 {
			t.Errorf("outcome %+v, attempt %d: %v", rec.Outcome, rec.Attempt, err)
		}
	})
}

func TestPresence(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		present := func() store.Presence {
			t.Helper()
			synctest.Wait()
			found, err := w.store.Present(t.Context(), w.host.Time().Add(-store.PresenceTTL))
			if err != nil || len(found) != 1 {
				t.Fatalf("%d workers, %v", len(found), err)
			}
			return found[0]
		}
		c := w.hire("w1", lasting(time.Hour, 0), func(c *Config) { c.Slots = 5 })
		if p := present(); p.Worker != "w1" || p.Machine != "cpu" || p.Slots != 5 || p.Running != 0 {
			t.Errorf("at the start %+v", p)
		}
		w.submit("a", nil)
		time.Sleep(announceGap)
		if p := present(); p.Running != 1 {
			t.Errorf("soon after a script has begun %+v", p)
		}
		seen := present().Seen
		time.Sleep(10*time.Minute + announceGap)
		if p := present(); w.host.Time().Sub(p.Seen) > store.PresenceEvery || p.Seen == seen {
			t.Errorf("seen %v ago", w.host.Time().Sub(p.Seen))
		}
		c.fire()
		if found, _ := w.store.Present(t.Context(), 0); len(found) != 0 {
			t.Errorf("still there after it stopped: %+v", found)
		}
		if machines, _ := w.store.Machines(t.Context()); !slices.Equal(machines, []string{"cpu"}) {
			t.Errorf("machines %q", machines)
		}
	})
}

// TestPresenceOfTheBusy: a worker whose slots are always full is announced
// every minute too, and where announcements are a minute apart no more often.
func TestPresenceOfTheBusy(t *testing.T) {
	for _, gap := range []time.Duration{0, store.PresenceEvery} {
		inWorld(t, func(t *testing.T, w *world) {
			counted := &announced{Roster: w.store}
			w.hire("w1", lasting(5*time.Second, 0), func(c *Config) { c.Roster, c.AnnounceGap = counted, gap })
			for n := range 400 {
				w.submit(fmt.Sprint("p", n), nil)
			}
			for range 10 {
				time.Sleep(time.Minute)
				if ago := w.host.Time().Sub(promise.Time(counted.last.Load())); ago > store.PresenceEvery+announceGap {
					t.Errorf("gap %v: announced %v ago", gap, ago)
				}
			}
			if gap == store.PresenceEvery && counted.n.Load() > 12 {
				t.Errorf("announced %d times in ten minutes", counted.n.Load())
			}
		})
	}
}

// announced counts what a roster is told.
type announced struct {
	store.Roster
	n    atomic.Int32
	last atomic.Int64 // a promise.Time
}

func (a *announced) Announce(ctx context.Context, p store.Presence) error {
	a.n.Add(1)
	a.last.Store(int64(p.Seen))
	return a.Roster.Announce(ctx, p)
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t)
	good := Config{Engine: w.host.Engine, Runner: &scripts{}, Name: "w"}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no engine":       func(c *Config) { c.Engine = nil },
		"no runner":       func(c *Config) { c.Runner = nil },
		"no name":         func(c *Config) { c.Name = "" },
		"a bad machine":   func(c *Config) { c.Machine = "Big Iron" },
		"negative slots":  func(c *Config) { c.Slots = -1 },
		"too long leases": func(c *Config) { c.Lease = queue.MaxVisibility },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	lone, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := lone.Run(t.Context()); err == nil {
		t.Error("Run without a machine: no error")
	}
}
