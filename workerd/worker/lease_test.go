package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/workerd/runner"
)

// sweepers runs a sweeper until the test ends.
func (w *world) sweeper() {
	ctx, stop := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s := sweep.New(sweep.Config{Engine: w.host.Engine, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
		if err := s.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() {
		stop()
		<-ended
	})
}

// Failure 11: a worker that is cut off kills its script before the lease is
// over, and no copy runs beside it.
func TestSelfFencing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		killed := make(chan time.Time, 1)
		one := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			<-ctx.Done()
			if context.Cause(ctx) != runner.ErrNow {
				t.Errorf("killed with grace (%v) although the lease was about to end", context.Cause(ctx))
			}
			killed <- time.Now()
			return runner.Result{End: runner.Killed}
		}, nil)
		w.submit("a", nil)
		time.Sleep(15 * time.Second) // one extension has been
		one.host.cut(true)
		leaseEnd := w.get("a").Task.LeaseEnd.Std()
		two := w.hire("w2", lasting(time.Second, 0), nil)
		rec := w.settled("a", 2*time.Minute)

		if at := <-killed; !at.Before(leaseEnd) {
			t.Errorf("killed at %v, the lease ended at %v", at, leaseEnd)
		}
		starts := two.scripts.started()
		if len(starts) != 1 || !starts[0].at.After(leaseEnd) || starts[0].at.After(leaseEnd.Add(15*time.Second)) {
			t.Errorf("the other worker's starts: %v; the lease ended at %v", starts, leaseEnd)
		}
		if rec.State != promise.Resolved || rec.Retries != 0 || rec.Crashes != 1 {
			t.Errorf("state %s, %d retries, %d crashes", rec.State, rec.Retries, rec.Crashes)
		}
		if n := w.log.count("the store does not answer"); n != 1 {
			t.Errorf("the log says %d times that the store is away, want once", n)
		}
	})
}

// A partition shorter than the lease is noticed by nobody.
func TestShortPartition(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(5*time.Minute, 0), nil)
		w.sweeper()
		w.submit("a", nil)
		for range 5 {
			time.Sleep(20 * time.Second)
			c.host.cut(true)
			time.Sleep(15 * time.Second)
			c.host.cut(false)
		}
		rec := w.settled("a", 10*time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 1 || rec.Crashes != 0 {
			t.Errorf("state %s, attempt %d, %d crashes", rec.State, rec.Attempt, rec.Crashes)
		}
	})
}

// Failures 9 and 7: the sweeper stopped, the queue's redelivery alone brings a
// dead worker's script to a peer.
func TestRecoveryByQueueAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		dead := w.hire("w1", lasting(time.Hour, 0), nil)
		w.submit("a", nil)
		time.Sleep(time.Minute)
		dead.host.cut(true)
		lost := time.Now()
		two := w.hire("w2", lasting(time.Second, 0), nil)
		rec := w.settled("a", time.Minute)
		if starts := two.scripts.started(); len(starts) != 1 || starts[0].at.Sub(lost) > 45*time.Second {
			t.Errorf("starts %v, the worker died at %v", starts, lost)
		}
		if rec.Crashes != 1 {
			t.Errorf("%d crashes", rec.Crashes)
		}
	})
}

// And the queue emptied, the sweep alone does.
func TestRecoveryBySweepAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.sweeper()
		dead := w.hire("w1", lasting(time.Hour, 0), nil)
		w.submit("a", nil)
		time.Sleep(time.Minute)
		dead.host.cut(true)
		lost := time.Now()
		w.purge(dead.host)
		if d := w.depth(); d != (queue.Depth{}) {
			t.Fatalf("the queue holds %+v", d)
		}
		two := w.hire("w2", lasting(time.Second, 0), nil)
		w.settled("a", time.Minute)
		if starts := two.scripts.started(); len(starts) != 1 || starts[0].at.Sub(lost) > 45*time.Second {
			t.Errorf("starts %v, the worker died at %v", starts, lost)
		}
	})
}

// Failure 10: a worker that stood still past its lease cannot settle. Its
// write is on the way when the other takes over.
func TestFrozenWorkerCannotSettle(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one := w.hire("w1", lasting(time.Second, 0), nil)
		delay := func(next promise.Record) {
			if next.State.Terminal() {
				time.Sleep(10 * time.Minute)
			}
		}
		one.host.store.delay.Store(&delay)
		w.submit("a", nil)
		time.Sleep(2 * time.Second)
		two := w.hire("w2", lasting(time.Second, 7), nil)
		rec := w.settled("a", 5*time.Minute)
		if len(two.scripts.started()) != 1 || rec.Outcome.ExitCode != 7 {
			t.Fatalf("outcome %+v", rec.Outcome)
		}
		time.Sleep(20 * time.Minute) // the frozen one goes on
		if after := w.get("a"); after.Rev != rec.Rev {
			t.Errorf("the record changed after it was settled: rev %d, then %d", rec.Rev, after.Rev)
		}
	})
}

// Failures 5 and 12: answers that are lost change nothing.
func TestLostAnswers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Minute, 0), nil)
		var lost atomic.Int32
		c.host.store.loseAnswer(func(next promise.Record) bool { return lost.Add(1)%2 == 1 })
		w.submit("a", nil)
		rec := w.settled("a", 2*time.Minute)
		time.Sleep(time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 1 || rec.Crashes != 0 || len(c.scripts.started()) != 1 {
			t.Errorf("state %s, attempt %d, %d crashes, %d starts", rec.State, rec.Attempt, rec.Crashes, len(c.scripts.started()))
		}
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("messages left: %+v", d)
		}
	})
}

// Failure 46: whoever else writes the record, a healthy script goes on.
func TestContendedRecordKillsNoScript(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(3*time.Minute, 0), nil)
		w.submit("a", nil)
		synctest.Wait()
		// Each extension finds the record changed under it, several times over.
		refuse := func(next promise.Record) {
			rec := w.get("a")
			if rec.Rev+1 != next.Rev || rec.Rev%4 == 0 {
				return
			}
			rec.Rev++
			rec.WriteID = promise.Nonce{byte(rec.Rev)}
			if err := w.store.Replace(t.Context(), rec); err != nil {
				t.Error(err)
			}
		}
		c.host.store.delay.Store(&refuse)
		rec := w.settled("a", 10*time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 1 {
			t.Errorf("state %s after %d attempts", rec.State, rec.Attempt)
		}
		if rec.Rev < 30 {
			t.Errorf("rev %d: nobody contended", rec.Rev)
		}
	})
}

func TestCancelKills(t *testing.T) {
	for _, c := range []struct {
		name   string
		mute   bool
		within time.Duration
	}{
		{"told by the store", false, 2 * time.Second},
		{"told by the extension", true, 10*time.Second + 10*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				dead := make(chan time.Time, 1)
				one := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
					fmt.Fprint(job.Stdout, "begun\n")
					res := lasting(time.Hour, 0)(ctx, job)
					fmt.Fprint(job.Stdout, "cleaned up\n")
					if context.Cause(ctx) == runner.ErrNow {
						t.Error("killed without grace")
					}
					dead <- time.Now()
					return res
				}, func(cfg *Config) {
					if c.mute {
						cfg.Engine.Store = mute{cfg.Engine.Store}
					}
				})
				w.submit("a", nil)
				time.Sleep(25 * time.Second)
				if _, err := w.host.Apply(t.Context(), "a", promise.Cancel{SettleID: promise.Nonce{1}}); err != nil {
					t.Fatal(err)
				}
				canceled := time.Now()
				if d := (<-dead).Sub(canceled); d > c.within {
					t.Errorf("dead %v after the cancel, want within %v", d, c.within)
				}
				synctest.Wait()
				rec := w.get("a")
				if rec.State != promise.Canceled || len(one.scripts.started()) != 1 {
					t.Errorf("state %s, %d starts", rec.State, len(one.scripts.started()))
				}
				if d := w.depth(); d != (queue.Depth{}) {
					t.Errorf("messages left: %+v", d)
				}
				if got := w.logOf(rec, "stdout"); got != "begun\ncleaned up\n" {
					t.Errorf("output %q, want the last words too", got)
				}
			})
		})
	}
}

// Failure 22: at the deadline the script is killed, whoever notices first.
func TestDeadlineKills(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), nil)
		w.submit("a", func(r *promise.Record) { r.DeadlineAt = r.CreatedAt.Add(0) + w.host.Time().Add(95*time.Second) })
		time.Sleep(97 * time.Second)
		if rec := w.get("a"); rec.State != promise.TimedOut {
			t.Errorf("state %s at the deadline, with nobody but the worker", rec.State)
		}
		if n := c.running.Load(); n != 0 {
			t.Errorf("%d scripts run on", n)
		}
	})
}

// A machine that was suspended finds its wall clock far ahead of its monotonic
// one: it extends at once, and where it cannot, or another has the task, its
// script dies. A clock that is set a little costs nothing.
func TestSuspend(t *testing.T) {
	for _, c := range []struct {
		name  string
		sleep time.Duration // of the machine
		cut   bool
		lives bool
	}{
		{"clock set", 5 * time.Second, false, true},
		{"short", 15 * time.Second, false, true},
		{"nobody took it", time.Hour, false, true},
		{"short, cut off", 15 * time.Second, true, true},
		{"cut off", 29 * time.Second, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var ahead atomic.Int64 // of the wall clock
				one := w.hire("w1", lasting(5*time.Minute, 0), func(cfg *Config) {
					cfg.Engine.Now = func() promise.Time { return promise.TimeOf(time.Now().Add(time.Duration(ahead.Load()))) }
				})
				w.submit("a", nil)
				time.Sleep(10*time.Second + time.Millisecond)
				before := w.get("a").Rev
				one.host.cut(c.cut)
				ahead.Store(int64(c.sleep))
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if alive := one.scripts.active["a"] == 1; alive != c.lives {
					t.Errorf("alive: %v, want %v", alive, c.lives)
				}
				extended := w.get("a").Rev != before
				if want := !c.cut && c.sleep >= 10*time.Second; extended != want {
					t.Errorf("extended at once: %v, want %v", extended, want)
				}
				one.host.cut(false)
				if c.lives {
					if rec := w.settled("a", 10*time.Minute); rec.Attempt != 1 || rec.Crashes != 0 {
						t.Errorf("attempt %d, %d crashes", rec.Attempt, rec.Crashes)
					}
				}
			})
		})
	}
}

// While the machine slept its script was started elsewhere.
func TestSuspendedForTooLong(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var behind atomic.Bool // the clocks of the machine, which sleeps
		behind.Store(true)
		begun := time.Now()
		one := w.hire("w1", lasting(time.Hour, 0), func(cfg *Config) {
			cfg.Engine.Now = func() promise.Time {
				if behind.Load() {
					return promise.TimeOf(begun)
				}
				return promise.TimeOf(time.Now().Add(time.Hour))
			}
		})
		w.submit("a", nil)
		synctest.Wait()
		w.host.Engine.Now = func() promise.Time { return promise.TimeOf(time.Now().Add(time.Hour)) }
		if _, err := w.host.Apply(t.Context(), "a", promise.Claim{Worker: "w2", ClaimID: promise.Nonce{2}}); err != nil {
			t.Fatal(err)
		}
		behind.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := one.scripts.active["a"]; n != 0 {
			t.Error("its script runs on")
		}
		if rec := w.get("a"); rec.Task.Worker != "w2" || rec.Task.Version != 2 {
			t.Errorf("%s has it, version %d", rec.Task.Worker, rec.Task.Version)
		}
	})
}

// A claim whose answers are lost for long is extended before the script runs.
func TestOldClaimIsExtendedFirst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var left time.Duration // of the lease, when the script starts
		c := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			left = time.Until(w.get("a").Task.LeaseEnd.Std())
			return lasting(time.Minute, 0)(ctx, job)
		}, nil)
		claims := 0
		c.host.store.loseAnswer(func(next promise.Record) bool {
			if claims++; claims == 1 {
				c.host.store.down.Store(true)
				time.AfterFunc(15*time.Second, func() { c.host.store.down.Store(false) })
				return true
			}
			return false
		})
		w.submit("a", nil)
		rec := w.settled("a", 3*time.Minute)
		if rec.Attempt != 1 || rec.State != promise.Resolved {
			t.Errorf("state %s after %d attempts", rec.State, rec.Attempt)
		}
		if left < 29*time.Second {
			t.Errorf("the script started with %v of a lease of 30 s left", left)
		}
	})
}

// Where that extension's outcome is not known, the task is given back: no
// crash, and the next attempt starts at once.
func TestOldClaimIsGivenBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Minute, 0), nil)
		writes := 0
		c.host.store.loseAnswer(func(next promise.Record) bool {
			if writes++; writes == 1 { // the claim
				c.host.store.down.Store(true)
				time.AfterFunc(15*time.Second, func() { c.host.store.down.Store(false) })
			}
			return writes <= 2 // and the extension
		})
		w.submit("a", nil)
		time.Sleep(25 * time.Second)
		if starts := c.scripts.started(); len(starts) != 1 || starts[0].attempt != "2" {
			t.Errorf("starts: %v", starts)
		}
		rec := w.settled("a", 3*time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 2 || rec.Crashes != 0 || rec.Attempts[0].Cause != promise.CauseDrained {
			t.Errorf("state %s, attempt %d, %d crashes, the first ended by %q", rec.State, rec.Attempt, rec.Crashes, rec.Attempts[0].Cause)
		}
	})
}
