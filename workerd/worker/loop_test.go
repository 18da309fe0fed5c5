package worker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/workerd/runner"
)

func TestRunsAndSettles(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var env []string
		c := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			env = job.Env
			fmt.Fprint(job.Stdout, "out")
			fmt.Fprint(job.Stderr, "err")
			return runner.Result{}
		}, nil)
		w.submit("a", func(r *promise.Record) { r.Call.Input.Env = map[string]string{"B": "2", "A": "1"} })
		rec := w.settled("a", time.Minute)

		out := rec.Outcome
		if rec.State != promise.Resolved || out.Cause != promise.CauseOK || out.Version != 1 {
			t.Errorf("state %s, outcome %+v", rec.State, out)
		}
		if string(out.Stdout.Tail) != "out" || string(out.Stderr.Tail) != "err" || out.Stdout.Stored || out.Stdout.Size != 3 {
			t.Errorf("stdout %+v, stderr %+v", out.Stdout, out.Stderr)
		}
		want := []string{"A=1", "B=2", "MODULATE_ID=a", "MODULATE_ATTEMPT=1", "MODULATE_MACHINE=cpu", "MODULATE_GRACE=5"}
		if !slices.Equal(env, want) {
			t.Errorf("environment %q\nwant        %q", env, want)
		}
		if n := c.host.store.writes.Load(); n != 2 {
			t.Errorf("%d writes, want the claim and the settle", n)
		}
		if n := c.host.store.reads.Load(); n != 1 {
			t.Errorf("%d reads, want the claim's", n)
		}
		if n := c.host.blobs.puts.Load(); n != 0 {
			t.Errorf("%d blobs for a short script, want none", n)
		}
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("messages left: %+v", d)
		}
	})
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		does  func(context.Context, runner.Job) runner.Result
		check func(promise.Outcome) bool
	}{
		{"exit", lasting(0, 3), func(o promise.Outcome) bool { return o.Cause == promise.CauseExit && o.ExitCode == 3 }},
		{"signal", func(context.Context, runner.Job) runner.Result {
			return runner.Result{End: runner.Signalled, Signal: 11}
		}, func(o promise.Outcome) bool { return o.Cause == promise.CauseSignal && o.Signal == 11 }},
		{"not executable", func(context.Context, runner.Job) runner.Result {
			return runner.Result{Code: runner.CodeNotExecutable, Err: fmt.Errorf("x.py is %w", runner.ErrNotExecutable)}
		}, func(o promise.Outcome) bool {
			return o.Cause == promise.CauseExit && o.ExitCode == 126 && o.Error.Detail == "x.py is not an executable of this machine"
		}},
		{"timeout", lasting(time.Hour, 0), func(o promise.Outcome) bool {
			return o.Cause == promise.CauseTimeout && o.Error.Detail == "the script ran longer than its timeout of 2s"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.hire("w1", c.does, nil)
				w.submit("a", func(r *promise.Record) { r.Call.Timeout = 2 * time.Second })
				rec := w.settled("a", time.Minute)
				if rec.State != promise.Rejected || !c.check(rec.Outcome) {
					t.Errorf("state %s, outcome %+v", rec.State, rec.Outcome)
				}
			})
		})
	}
}

func TestReceivesOnlyIntoFreeSlots(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", lasting(time.Minute, 0), func(c *Config) { c.Slots = 3 })
		for i := range 10 {
			w.submit(fmt.Sprint("p", i), nil)
		}
		synctest.Wait()
		if d := w.depth(); d.InFlight != 3 || d.Visible != 7 {
			t.Errorf("%+v, want 3 in flight and the rest left for others", d)
		}
		for i := range 10 {
			w.settled(fmt.Sprint("p", i), 10*time.Minute)
		}
	})
}

// Failures 6 and 47: duplicates of a running script's message wait for its
// lease, the third is deleted, and no second copy starts.
func TestDuplicateDelivery(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(10*time.Minute, 0), nil)
		w.submit("a", nil)
		synctest.Wait()
		body := queue.Encode("a", 0) // an old version: the stored one is claimed
		if err := w.queue.Send(t.Context(), "cpu", body, 0); err != nil {
			t.Fatal(err)
		}
		rec := w.settled("a", 20*time.Minute)
		if rec.State != promise.Resolved || rec.Attempt != 1 || c.scripts.most != 1 {
			t.Errorf("state %s after %d attempts, %d at once", rec.State, rec.Attempt, c.scripts.most)
		}
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("messages left: %+v", d)
		}
	})
}

// Failure 48.
func TestTwoSlotsClaimAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.submit("a", nil)
		for range 7 {
			if err := w.queue.Send(t.Context(), "cpu", queue.Encode("a", 0), 0); err != nil {
				t.Fatal(err)
			}
		}
		one := w.hire("w1", lasting(time.Second, 0), func(c *Config) { c.Slots = 4 })
		two := w.hire("w2", lasting(time.Second, 0), func(c *Config) { c.Slots = 4 })
		rec := w.settled("a", time.Minute)
		if n := len(one.scripts.started()) + len(two.scripts.started()); n != 1 || rec.Attempt != 1 {
			t.Errorf("%d starts, %d attempts", n, rec.Attempt)
		}
	})
}

func TestVerdicts(t *testing.T) {
	now := promise.Time(1_000_000_000)
	at := func(d time.Duration) promise.Time { return now.Add(d) }
	leased := promise.Record{Drains: 1, Task: promise.Task{Version: 2, LeaseEnd: at(20 * time.Second)}}
	for _, c := range []struct {
		name string
		d    queue.Delivery
		rec  promise.Record
		err  error
		want verdict
	}{
		{"garbage", queue.Delivery{}, promise.Record{}, queue.ErrGarbage, verdict{bury: true}},
		{"newer", queue.Delivery{}, promise.Record{}, queue.ErrNewer, verdict{hide: time.Minute}},
		{"unknown, young", queue.Delivery{SentAt: at(-10 * time.Minute)}, promise.Record{}, promise.ErrNotFound, verdict{hide: 30 * time.Second}},
		{"unknown, old", queue.Delivery{SentAt: at(-10*time.Minute - 1)}, promise.Record{}, promise.ErrNotFound, verdict{hide: 30 * time.Second}},
		{"unknown, older", queue.Delivery{SentAt: at(-10*time.Minute - time.Millisecond)}, promise.Record{}, promise.ErrNotFound, verdict{remove: true}},
		{"terminal", queue.Delivery{}, promise.Record{}, promise.ErrSettled, verdict{remove: true}},
		{"leased, met twice", queue.Delivery{Receives: 5}, leased, promise.ErrLeased, verdict{hide: 25 * time.Second}},
		{"leased, met three times", queue.Delivery{Receives: 6}, leased, promise.ErrLeased, verdict{remove: true}},
		{"retry to come", queue.Delivery{}, promise.Record{NotBefore: at(time.Minute)}, promise.ErrNotYet, verdict{hide: time.Minute}},
		{"retry far away", queue.Delivery{}, promise.Record{NotBefore: at(100 * time.Hour)}, promise.ErrNotYet, verdict{hide: 11 * time.Hour}},
		{"not to be run", queue.Delivery{}, promise.Record{}, promise.ErrState, verdict{remove: true}},
		{"not known", queue.Delivery{}, promise.Record{}, errCut, verdict{leave: true}},
	} {
		if got := judge(c.d, c.rec, fmt.Errorf("wrapped: %w", c.err), now); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// Failures 17 and 43.
func TestMessagesThatCannotBeRead(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, body := range []string{`{"v":1`, `{"v":9,"id":"a","version":1}`} {
			if err := w.queue.Send(t.Context(), "cpu", []byte(body), 0); err != nil {
				t.Fatal(err)
			}
		}
		w.hire("w1", nil, nil)
		synctest.Wait()
		if d := w.depth(); d.Dead != 1 || d.InFlight != 1 {
			t.Errorf("%+v, want one dead and one left for a newer worker", d)
		}
		time.Sleep(24 * time.Hour)
		if d := w.depth(); d.Dead != 1 || d.InFlight+d.Visible != 1 {
			t.Errorf("a day later %+v, want the newer one still there", d)
		}
	})
}

func TestMessagesWithoutAPromise(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", nil, nil)
		if err := w.queue.Send(t.Context(), "cpu", queue.Encode("ghost", 0), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		if d := w.depth(); d.InFlight+d.Visible != 1 {
			t.Errorf("%+v, want the message kept for 10 minutes", d)
		}
		time.Sleep(2 * time.Minute)
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("%+v, want it deleted", d)
		}
	})
}

// Failures 13 and 24.
func TestMessageOfTerminalPromiseIsDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.submit("a", nil)
		if _, err := w.host.Apply(t.Context(), "a", promise.Cancel{SettleID: promise.Nonce{1}}); err != nil {
			t.Fatal(err)
		}
		c := w.hire("w1", nil, nil)
		synctest.Wait()
		if d := w.depth(); d != (queue.Depth{}) || len(c.scripts.started()) != 0 {
			t.Errorf("%+v, %d starts", d, len(c.scripts.started()))
		}
	})
}

// Failure 20.
func TestQueueThatIsMissing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", nil, func(c *Config) { c.Machine = "gpu" })
		time.Sleep(time.Hour)
		if n := w.log.count("the queue does not answer"); n != 1 {
			t.Errorf("said %d times in an hour, want once", n)
		}
	})
}

func TestRetriesWithDelays(t *testing.T) {
	for _, c := range []struct {
		policy promise.Policy
		want   []time.Duration // between the starts
	}{
		{promise.Never, nil},
		{promise.Constant, []time.Duration{10 * time.Second, 10 * time.Second, 10 * time.Second}},
		{promise.Linear, []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second}},
		{promise.Exponential, []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second}},
	} {
		t.Run(c.policy.String(), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				crew := w.hire("w1", lasting(0, 1), nil)
				w.submit("a", func(r *promise.Record) {
					r.Call.Retry = promise.Retry{Policy: c.policy, MaxAttempts: 4, Delay: 10 * time.Second, MaxDelay: 25 * time.Second}
				})
				rec := w.settled("a", time.Hour)
				var gaps []time.Duration
				starts := crew.scripts.started()
				for i, s := range starts[1:] {
					gaps = append(gaps, s.at.Sub(starts[i].at))
					if s.attempt != fmt.Sprint(i+2) {
						t.Errorf("start %d was told attempt %s", i+2, s.attempt)
					}
				}
				if !slices.Equal(gaps, c.want) {
					t.Errorf("delays %v, want %v", gaps, c.want)
				}
				if rec.Outcome.Cause != promise.CauseExit || rec.Outcome.Version != uint64(len(starts)) {
					t.Errorf("outcome %+v, want the last attempt's", rec.Outcome)
				}
				if d := w.depth(); d != (queue.Depth{}) {
					t.Errorf("messages left: %+v", d)
				}
			})
		})
	}
}

// Failure 16.
func TestCrashBudget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", func(context.Context, runner.Job) runner.Result {
			return runner.Result{End: runner.Failed, Err: errCut}
		}, nil)
		w.submit("a", nil)
		rec := w.settled("a", time.Hour)
		if rec.State != promise.Rejected || rec.Outcome.Cause != promise.CauseExhausted {
			t.Errorf("state %s, cause %s", rec.State, rec.Outcome.Cause)
		}
		if n := len(c.scripts.started()); n != promise.MaxCrashes+1 {
			t.Errorf("%d starts, want %d", n, promise.MaxCrashes+1)
		}
		for _, a := range rec.Attempts {
			if a.Cause != promise.CauseBadHost {
				t.Errorf("attempt %d ended with %s", a.Number, a.Cause)
			}
		}
	})
}

// A host that can run nothing pauses between receives, so that others get the
// messages; one script that runs ends that.
func TestBadHostPauses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var well atomic.Bool
		c := w.hire("w1", func(ctx context.Context, _ runner.Job) runner.Result {
			if !well.Load() {
				return runner.Result{End: runner.Failed, Err: errCut}
			}
			return runner.Result{}
		}, func(c *Config) { c.Slots = 1 })
		for i := range 12 {
			w.submit(fmt.Sprint("p", i), nil)
		}
		begun := time.Now()
		time.Sleep(5*time.Minute - time.Second)
		var at []time.Duration
		for _, s := range c.scripts.started() {
			at = append(at, s.at.Sub(begun)/time.Second)
		}
		if want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183, 243}; !slices.Equal(at, want) {
			t.Errorf("starts after %d seconds, want %d", at, want)
		}
		well.Store(true)
		for i := range 12 {
			w.settled(fmt.Sprint("p", i), 10*time.Second)
		}
		well.Store(false)
		before := len(c.scripts.started())
		w.submit("q", nil)
		w.submit("r", nil)
		time.Sleep(1500 * time.Millisecond)
		if got := c.scripts.started()[before:]; len(got) != 2 || got[1].at.Sub(got[0].at) != time.Second {
			t.Errorf("after scripts that ran: %v, want two, a second apart", got)
		}
	})
}

// Failure 35: a job of 40 hours.
func TestRolloverAfterEleven(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(40*time.Hour, 0), nil)
		w.submit("a", func(r *promise.Record) { r.Call.Lease = 3 * time.Minute })
		time.Sleep(11*time.Hour - time.Minute)
		if d := w.depth(); d.InFlight != 1 {
			t.Errorf("before 11 h: %+v", d)
		}
		time.Sleep(2 * time.Minute)
		if d := w.depth(); d != (queue.Depth{}) {
			t.Errorf("after 11 h: %+v, want no message", d)
		}
		rec := w.settled("a", 30*time.Hour)
		if rec.State != promise.Resolved || rec.Attempt != 1 || len(c.scripts.started()) != 1 {
			t.Errorf("state %s after %d attempts", rec.State, rec.Attempt)
		}
	})
}

// A lease that is not the worker's own moves the message's alarm clock too.
func TestVisibilityFollowsTheLease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		dead := w.hire("w1", lasting(time.Hour, 0), nil)
		w.submit("a", func(r *promise.Record) { r.Call.Lease = 2 * time.Second })
		synctest.Wait()
		dead.host.cut(true)
		two := w.hire("w2", lasting(time.Second, 0), nil)
		w.settled("a", 2*time.Second+15*time.Second)
		if n := len(two.scripts.started()); n != 1 {
			t.Errorf("%d starts on the other worker", n)
		}
	})
}
