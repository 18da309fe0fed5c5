package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/workerd/runner"
)

// spooled returns the names of the files in a spool.
func spooled(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// endsCutOff is a script that leaves a line and exits with code after d; its
// host is cut off a moment before, for as long as out says.
func endsCutOff(h **host, d, out time.Duration, code int) func(context.Context, runner.Job) runner.Result {
	return func(ctx context.Context, job runner.Job) runner.Result {
		res := lasting(d, code)(ctx, job)
		(*h).cut(true)
		time.AfterFunc(out, func() { (*h).cut(false) })
		fmt.Fprint(job.Stdout, "the outcome")
		return res
	}
}

// Failures 11, 28 and 29: an outcome that is ready when the store is away is
// settled when it is back, in time or late, and nothing runs again.
func TestOutcomeIsSettledWhenTheStoreIsBack(t *testing.T) {
	for _, c := range []struct {
		name string
		out  time.Duration
	}{{"within the lease", 20 * time.Second}, {"after the lease", 50 * time.Second}, {"after three hours", 3 * time.Hour}} {
		for _, swept := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, sweeper %v", c.name, swept), func(t *testing.T) {
				spool := t.TempDir()
				inWorld(t, func(t *testing.T, w *world) {
					if swept {
						w.sweeper()
					}
					var h *host
					one := w.hire("w1", endsCutOff(&h, time.Minute, c.out, 0), func(c *Config) { c.Spool = spool })
					h = one.host
					w.submit("a", nil)
					time.Sleep(time.Minute + c.out - time.Second)
					if n := len(spooled(t, spool)); n != 1 {
						t.Errorf("%d outcomes in the spool while the store is away, want 1", n)
					}
					rec := w.settled("a", 20*time.Second)
					if rec.State != promise.Resolved || string(rec.Outcome.Stdout.Tail) != "the outcome" {
						t.Errorf("state %s, outcome %+v", rec.State, rec.Outcome)
					}
					if rec.Attempt != 1 || rec.Crashes != 0 || rec.Retries != 0 || len(one.scripts.started()) != 1 {
						t.Errorf("attempt %d, %d crashes, %d retries", rec.Attempt, rec.Crashes, rec.Retries)
					}
					if names := spooled(t, spool); len(names) != 0 {
						t.Errorf("the spool still holds %q", names)
					}
					time.Sleep(2 * time.Hour)
					if d := w.depth(); d != (queue.Depth{}) {
						t.Errorf("messages left: %+v", d)
					}
				})
			})
		}
	}
}

// The outcome survives the daemon: its next one settles it before it receives.
func TestSpoolIsSettledAfterRestart(t *testing.T) {
	spool := t.TempDir()
	inWorld(t, func(t *testing.T, w *world) {
		var h *host
		one := w.hire("w1", endsCutOff(&h, time.Second, time.Hour, 3), func(c *Config) { c.Spool = spool })
		h = one.host
		w.submit("a", nil)
		time.Sleep(2 * time.Second)
		one.fire()
		if n := len(spooled(t, spool)); n != 1 {
			t.Fatalf("%d outcomes in the spool, want 1", n)
		}
		time.Sleep(time.Hour) // the lease is long over, the message visible

		two := w.hire("w1", lasting(0, 0), func(c *Config) { c.Spool = spool })
		rec := w.settled("a", time.Second)
		if rec.State != promise.Rejected || rec.Outcome.ExitCode != 3 || len(two.scripts.started()) != 0 {
			t.Errorf("state %s, outcome %+v, %d starts after the restart", rec.State, rec.Outcome, len(two.scripts.started()))
		}
		if names := spooled(t, spool); len(names) != 0 {
			t.Errorf("the spool still holds %q", names)
		}
	})
}

// A sweeper whose clock is ahead takes the lease for lost while the outcome is
// on its way: it counts all the same.
func TestOutcomeOfALeaseTakenForLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			hasty := *w.host.Engine
			hasty.Now = func() promise.Time { return promise.TimeOf(time.Now().Add(time.Minute)) }
			if rec, err := hasty.Apply(ctx, "a", promise.Tick{}); err != nil || rec.Task.State != promise.TaskPending {
				t.Errorf("the lease was not taken for lost: %s, %v", rec.Task.State, err)
			}
			return runner.Result{Code: 3}
		}, func(c *Config) { c.Slots = 1 })
		w.submit("a", nil)
		rec := w.settled("a", time.Minute)
		if rec.Attempt != 1 || rec.Crashes != 0 || rec.Outcome.ExitCode != 3 {
			t.Errorf("attempt %d, %d crashes, outcome %+v", rec.Attempt, rec.Crashes, rec.Outcome)
		}
	})
}

// An outcome that comes after another claim is dropped.
func TestKeptOutcomeThatCameTooLate(t *testing.T) {
	spool := t.TempDir()
	inWorld(t, func(t *testing.T, w *world) {
		var h *host
		one := w.hire("w1", endsCutOff(&h, time.Second, 5*time.Minute, 3), func(c *Config) { c.Spool = spool })
		h = one.host
		w.submit("a", nil)
		time.Sleep(time.Second)
		w.hire("w2", lasting(10*time.Minute, 0), nil)
		rec := w.settled("a", 20*time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 2 || rec.Crashes != 1 {
			t.Errorf("state %s, attempt %d, %d crashes", rec.State, rec.Attempt, rec.Crashes)
		}
		if names := spooled(t, spool); len(names) != 0 {
			t.Errorf("the spool still holds %q", names)
		}
	})
}

func TestSpoolFiles(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	s, err := openSpool(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	long := "a" + string(slices.Repeat([]byte(".child"), 140)) // longer than a file's name may be
	want := []kept{
		{ID: "a", Version: 1, ClaimID: promise.Nonce{1}, SettleID: promise.Nonce{2}, Outcome: promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 2, Tail: []byte("ok")}}},
		{ID: long, Version: 7, ClaimID: promise.Nonce{3}, SettleID: promise.Nonce{4}, Outcome: promise.Outcome{Cause: promise.CauseExit, ExitCode: 3}},
	}
	for _, o := range want {
		s.keep(o)
		s.keep(o) // again is no harm
	}
	for _, name := range []string{"garbled" + keptSuffix, "a" + keptSuffix + halfSuffix} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte{0xff}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openSpool(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	got := again.waiting()
	slices.SortFunc(got, func(a, b kept) int { return int(a.Version) - int(b.Version) })
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, o := range got {
		again.drop(o)
	}
	if names := spooled(t, dir); !slices.Equal(names, []string{"garbled.outcome.bad"}) {
		t.Errorf("left: %q, want only what could not be read, set aside", names)
	}
}

// Failure 27: a script that ends within the drain is settled, and nothing new
// is received.
func TestDrainLetsScriptsFinish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Minute, 0), func(c *Config) { c.Drain = 2 * time.Minute })
		w.submit("a", nil)
		synctest.Wait()
		c.stop(nil)
		synctest.Wait()
		w.submit("b", nil)
		<-c.ended
		if rec := w.get("a"); rec.State != promise.Resolved || rec.Drains != 0 {
			t.Errorf("a: %s, %d drains", rec.State, rec.Drains)
		}
		if rec := w.get("b"); rec.Attempt != 0 {
			t.Error("b was received by a worker that drains")
		}
		if d := w.depth(); d.Visible != 1 {
			t.Errorf("messages %+v, want b's left for others", d)
		}
		if present, _ := w.store.Present(t.Context(), 0); len(present) != 0 {
			t.Errorf("still on the roster: %+v", present)
		}
	})
}

// Failures 26 and 27: what does not end in time is killed with grace, given
// back, and starts elsewhere at once, at no cost.
func TestDrainGivesBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), func(c *Config) { c.Drain = 10 * time.Second })
		w.submit("a", nil)
		time.Sleep(time.Minute)
		two := w.hire("w2", lasting(time.Second, 0), nil)
		c.stop(nil)
		stopped := time.Now()
		<-c.ended
		if d := time.Since(stopped); d != 11*time.Second { // the drain, and the second that the script takes to end
			t.Errorf("drained in %v, want 11s", d)
		}
		synctest.Wait()
		if starts := two.scripts.started(); len(starts) != 1 || starts[0].at.Sub(stopped) != 11*time.Second {
			t.Errorf("the other worker's starts: %v, drained at %v", starts, time.Now())
		}
		rec := w.settled("a", time.Minute)
		if rec.Drains != 1 || rec.Retries != 0 || rec.Crashes != 0 || rec.Attempts[0].Cause != promise.CauseDrained {
			t.Errorf("%d drains, %d retries, %d crashes, first attempt ended by %q", rec.Drains, rec.Retries, rec.Crashes, rec.Attempts[0].Cause)
		}
		time.Sleep(time.Hour)
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("messages left: %+v", d)
		}
	})
}

func TestAbortIsImmediate(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), func(c *Config) { c.Drain = time.Hour })
		w.submit("a", nil)
		time.Sleep(time.Minute)
		c.stop(nil)
		time.Sleep(time.Minute)
		if rec := w.get("a"); rec.Task.State != promise.TaskAcquired {
			t.Fatalf("task %s while draining", rec.Task.State)
		}
		begun := time.Now()
		c.Abort()
		<-c.ended
		rec := w.get("a")
		if d := time.Since(begun); d != 0 || rec.Drains != 1 || rec.Task.State != promise.TaskPending {
			t.Errorf("aborted in %v, task %s, %d drains", d, rec.Task.State, rec.Drains)
		}
		if w.depth().Visible == 0 {
			t.Error("no message is visible")
		}
	})
}

// stubborn is a script that ignores SIGTERM: killed it takes the whole grace,
// unless it is to be at once. It tells when it died.
func stubborn(died chan<- time.Time) func(context.Context, runner.Job) runner.Result {
	return func(ctx context.Context, job runner.Job) runner.Result {
		<-ctx.Done()
		select {
		case <-time.After(job.Grace):
		case <-job.Now:
		}
		died <- time.Now()
		return runner.Result{End: runner.Killed}
	}
}

// Failure 11, while draining: a script in its grace dies before its lease is
// over.
func TestFencedInGrace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		died := make(chan time.Time, 1)
		c := w.hire("w1", stubborn(died), nil)
		w.submit("a", nil)
		time.Sleep(15 * time.Second) // extended at 10 s, to 40 s
		c.host.cut(true)
		leaseEnd := w.get("a").Task.LeaseEnd.Std()
		time.Sleep(time.Until(leaseEnd) - 4*time.Second)
		c.stop(nil)
		if at := <-died; !at.Equal(leaseEnd.Add(-margin(30 * time.Second))) {
			t.Errorf("killed %v before the lease ended, want %v", leaseEnd.Sub(at), margin(30*time.Second))
		}
	})
}

// A script in its grace dies at the second signal, whatever the first was for.
func TestAbortInGrace(t *testing.T) {
	for first, begin := range map[string]func(*world, *crew){
		"drain": func(_ *world, c *crew) { c.stop(nil) },
		"cancel": func(w *world, _ *crew) {
			if _, err := w.host.Apply(w.t.Context(), "a", promise.Cancel{SettleID: promise.Nonce{1}}); err != nil {
				w.t.Error(err)
			}
		},
	} {
		t.Run(first, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				died := make(chan time.Time, 1)
				c := w.hire("w1", stubborn(died), nil)
				w.submit("a", nil)
				time.Sleep(time.Second)
				begin(w, c)
				time.Sleep(time.Second)
				aborted := time.Now()
				c.Abort()
				if d := (<-died).Sub(aborted); d != 0 {
					t.Errorf("died %v after the second signal", d)
				}
				if first == "cancel" {
					c.stop(nil)
				}
				<-c.ended
				if d := time.Since(aborted); d != 0 {
					t.Errorf("the worker ended %v after the second signal", d)
				}
			})
		})
	}
}

// A worker that cannot reach its store ends all the same, in bounded time.
func TestDrainWithoutAStore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), func(c *Config) { c.Drain = 10 * time.Second })
		w.submit("a", func(r *promise.Record) { r.Call.Lease = 10 * time.Minute })
		time.Sleep(time.Second)
		c.host.cut(true)
		c.stop(nil)
		begun := time.Now()
		<-c.ended
		if d := time.Since(begun); d > 10*time.Second+grace+2*settleTime+settleTime {
			t.Errorf("it took %v", d)
		}
	})
}
