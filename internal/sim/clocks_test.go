package sim

import (
	"testing"
	"time"

	"modulate/internal/promise"
)

// check plays n histories and wants nothing broken.
func check(t *testing.T, n int, opt options) (sum total) {
	t.Helper()
	sum.faults = map[string]int{}
	many(n, opt, func(seed uint64, w *world) bool {
		sum.add(w)
		for _, b := range w.broken {
			t.Errorf("seed %d: %s", seed, b)
		}
		return !t.Failed()
	})
	return sum
}

// TestOutage takes the store away for three hours: everything settles
// afterwards, and what had ended by itself is not lost.
func TestOutage(t *testing.T) {
	opt := usual()
	opt.outage, opt.horizon = 3*time.Hour, day
	sum := check(t, few(12), opt)
	if sum.histories >= 12 && sum.faults["settled_late"] == 0 {
		t.Error("no outcome was kept and settled late")
	}
	t.Logf("%.3f executions a promise, %d settled late", sum.rate(), sum.faults["settled_late"])
}

// TestThrottleStorm has the store throttle nearly everything for longer than a
// lease: scripts that end meanwhile are settled late, others are killed and run
// again, and all of it is settled once.
func TestThrottleStorm(t *testing.T) {
	opt := usual()
	opt.storm = 10 * time.Minute
	sum := check(t, few(40), opt)
	if sum.histories >= 40 && (sum.faults["settled_late"] == 0 || sum.faults["fenced"] == 0) {
		t.Errorf("the storm was none: %v", sum.faults)
	}
	t.Logf("%.3f executions a promise, throttled %d times, %d settled late", sum.rate(), sum.faults["throttle_burst"], sum.faults["settled_late"])
}

// TestClocksApart sets every clock up to 10 minutes wrong: scripts run more
// often, and nothing worse.
func TestClocksApart(t *testing.T) {
	opt := usual()
	opt.wild = 1
	sum := check(t, few(40), opt)
	t.Logf("%.3f executions a promise", sum.rate())
}

// TestDeadLetters takes every message away that was received once, as a queue
// does whose maxReceiveCount is 1: the sweep brings back what needs to be.
func TestDeadLetters(t *testing.T) {
	opt := usual()
	opt.once = true
	sum := check(t, few(40), opt)
	t.Logf("%.3f executions a promise", sum.rate())
}

// TestPoison has a script kill its worker each time, beside four that share the
// workers with it: it is given up after exactly as many attempts as a promise
// may lose, and the others come to their ends.
func TestPoison(t *testing.T) {
	opt := options{submissions: 5, horizon: 2 * time.Hour, calm: true, script: func(w *world) plan {
		p := plan{runs: 5 * time.Second, cause: promise.CauseOK, lease: usualLease}
		if len(w.plans) == 0 { // p0
			p.poison = 2 * time.Second
		}
		return p
	}}
	many(few(40), opt, func(seed uint64, w *world) bool {
		for _, b := range w.broken {
			t.Errorf("seed %d: %s", seed, b)
		}
		runs := map[string]int{}
		for _, x := range w.executions {
			runs[x.id]++
		}
		for _, id := range w.order {
			rec := w.records[id]
			switch {
			case id != "p0" && rec.State != promise.Resolved:
				t.Errorf("seed %d: %s is %s (%s)", seed, id, rec.State, rec.Outcome.Cause)
			case id == "p0" && (rec.Outcome.Cause != promise.CauseExhausted || runs[id] != promise.MaxCrashes+1 || rec.Outcome.Error.Detail == ""):
				t.Errorf("seed %d: the poison is %s (%s) after %d runs: %+v", seed, rec.State, rec.Outcome.Cause, runs[id], rec.Outcome.Error)
			}
		}
		return !t.Failed()
	})
}

// TestMessagesExpire lets no worker come for 15 days, while messages live for
// 14: the sweep sends again, and everything runs.
func TestMessagesExpire(t *testing.T) {
	opt := options{submissions: 3, horizon: 25 * day, begin: 15 * day, days: 15, script: short}
	sum := check(t, 1, opt)
	if sum.faults["message_expired"] == 0 {
		t.Error("no message expired")
	}
}

func short(*world) plan {
	return plan{runs: time.Second, cause: promise.CauseOK, lease: usualLease}
}

// TestLongScript runs scripts for 40 hours: longer than a message can be kept
// hidden. Half of their workers die on the way.
func TestLongScript(t *testing.T) {
	opt := options{submissions: 3, horizon: 20 * day, days: 10, script: func(*world) plan {
		return plan{runs: 40 * time.Hour, cause: promise.CauseOK, lease: 15 * time.Minute}
	}}
	sum := check(t, few(8), opt)
	if sum.faults["rolled_over"] == 0 {
		t.Error("no message was let go of")
	}
	t.Logf("%d executions of %d scripts", sum.executions, sum.promises)
}

// recovering is a quiet world with one script whose worker dies after 5 s.
func recovering() options {
	return options{submissions: 1, horizon: time.Hour, calm: true, doom: 5 * time.Second, script: func(*world) plan {
		return plan{runs: 20 * time.Second, cause: promise.CauseOK, lease: usualLease}
	}}
}

// TestRecovery kills a worker, and lets either the queue alone or the sweep
// alone bring the script to a peer, within the lease and 15 s.
func TestRecovery(t *testing.T) {
	for name, change := range map[string]func(*options){
		"both":           func(*options) {},
		"the queue only": func(o *options) { o.mutant = noSweep },
		"the sweep only": func(o *options) { o.once = true },
	} {
		t.Run(name, func(t *testing.T) {
			opt := recovering()
			change(&opt)
			many(few(50), opt, func(seed uint64, w *world) bool {
				for _, b := range w.broken {
					t.Errorf("seed %d: %s", seed, b)
				}
				if len(w.executions) != 2 {
					t.Fatalf("seed %d: %d executions", seed, len(w.executions))
				}
				died := w.executions[0].began.Add(opt.doom)
				if took := w.executions[1].began.Sub(died); took > usualLease+15*time.Second {
					t.Errorf("seed %d: it took %s", seed, took)
				}
				return !t.Failed()
			})
		})
	}
}
