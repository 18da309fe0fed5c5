package sim

import (
	"os"
	"testing"
	"time"

	"modulate/internal/promise"
)

// workflows are the options of the gate for what other programs execute.
func workflows() options { return options{workflows: 12, horizon: 4 * time.Hour} }

// TestWorkflows is the gate of the protocol: every workflow comes to its end and
// is settled once, whatever it awaits; nobody stays suspended whose turn it is.
func TestWorkflows(t *testing.T) {
	if *seed != 0 {
		w := newWorld(*seed, workflows())
		w.log = os.Stdout
		w.run()
		for _, b := range w.broken {
			t.Error(b)
		}
		return
	}
	n := few(*seeds / 2)
	sum := total{faults: map[string]int{}}
	happened, began := map[string]int{}, time.Now()
	many(n, workflows(), func(seed uint64, w *world) bool {
		sum.add(w)
		for what, times := range w.happened {
			happened[what] += times
		}
		for _, b := range w.broken {
			t.Errorf("seed %d (-run Workflows -seed %d): %s", seed, seed, b)
		}
		return !t.Failed()
	})
	t.Logf("%d histories, %d promises, %d turns, %s: %v, %v", sum.histories, sum.promises, sum.executions, time.Since(began).Round(time.Millisecond), happened, sum.faults)
	for _, what := range []string{
		"acquired to suspended", "acquired to pending", "suspended to pending", "suspended to halted", "halted to pending", "suspended to fulfilled",
		"run of a schedule",
	} {
		if n >= 100 && happened[what] < n/50 {
			t.Errorf("%s: %d times in %d histories", what, happened[what], n)
		}
	}
	for _, kind := range []string{
		"crash_after_call", "freeze", "drain", "request_late", "answer_lost", "router_death", "router_death_later", "sweeper_death",
		"write_failed", "write_persisted", "write_doubled", "write_late", "throttled", "store_outage",
		"message_lost", "message_doubled", "receive_lost", "delivered_twice", "delete_failed", "delete_unanswered",
	} {
		if n >= 100 && sum.faults[kind] < n/10 {
			t.Errorf("%s happened %d times in %d histories", kind, sum.faults[kind], n)
		}
	}
}

// TestWorkflowMutants breaks what workflows rely on; each breakage is noticed,
// where requests are so often late that nothing else breaks.
func TestWorkflowMutants(t *testing.T) {
	rough := workflows()
	rough.rough = true
	check(t, few(20), rough)
	for m, name := range map[mutant]string{
		noFence: "no fence", overwritesSettle: "completed under any version", noSweep: "no sweep", deleteFirst: "delete before suspend",
		forgetsAwaiter: "an awaiter is forgotten", resumesForEver: "resumed again and again", oneByOne: "one after the other",
		suspendsFirst: "suspended before its callbacks", suspendsAnew: "suspended anew without its callbacks", resumesWhoever: "resumed while it is held",
	} {
		t.Run(name, func(t *testing.T) {
			opt := rough
			opt.mutant = m
			noticed(t, opt)
		})
	}
}

// TestCrowd has more tasks await one promise than one write resumes, and one task
// more than one write takes: all of them are resumed, whoever dies meanwhile.
func TestCrowd(t *testing.T) {
	opt := workflows()
	opt.workflows, opt.crowd = 1, 2*promise.MaxResumed+10
	happened := map[string]int{}
	many(few(4), opt, func(seed uint64, w *world) bool {
		for _, b := range w.broken {
			t.Errorf("seed %d: %s", seed, b)
		}
		for what, times := range w.happened {
			happened[what] += times
		}
		return !t.Failed()
	})
	if happened["resumed later"] == 0 || happened["suspended bit by bit"] == 0 {
		t.Errorf("one write was enough: %v", happened)
	}
}

// TestWorkflowReplay plays histories of workflows twice: the traces must be the
// same.
func TestWorkflowReplay(t *testing.T) {
	for s := range uint64(few(40) / 4) {
		if a, b := play(s+1, workflows()).trace, play(s+1, workflows()).trace; a != b {
			t.Errorf("seed %d: two traces", s+1)
		}
	}
}
