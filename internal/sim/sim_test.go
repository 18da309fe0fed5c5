package sim

import (
	"flag"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 200, "histories to simulate; the gate is 10,000")
	seed  = flag.Uint64("seed", 0, "simulate this history only, and print it")
)

// faultKinds are the faults that the gate wants to see, and a few things that
// happen only because of them.
var faultKinds = []string{
	"read_lost", "write_failed", "write_persisted", "write_doubled", "write_late", "throttled", "throttle_burst",
	"store_outage", "partition", "stale_index", "blob_failed", "blob_persisted",
	"send_failed", "send_unanswered", "message_lost", "message_doubled", "message_delayed",
	"receive_failed", "receive_lost", "delivered_twice",
	"hide_failed", "hide_unanswered", "delete_failed", "delete_unanswered",
	"crash", "crash_after_call", "freeze", "cut_off", "drain", "bad_host",
	"router_death", "router_death_later", "sweeper_death", "answer_lost",
	"fenced", "told_of_an_end", "told_of_a_loss", "met_a_live_lease",
	"settled_late", "submitted_again",
}

// usual are the options of the gate.
func usual() options { return options{submissions: 20, horizon: 4 * time.Hour, wild: 0.05} }

func play(seed uint64, opt options) *world {
	w := newWorld(seed, opt)
	w.run()
	return w
}

// many plays histories 1 to n, and gives each to see, one at a time. It stops
// when see returns false.
func many(n int, opt options, see func(seed uint64, w *world) bool) {
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	stopped := false
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				s := next.Add(1)
				if s > uint64(n) {
					return
				}
				w := play(s, opt)
				mu.Lock()
				if !stopped {
					stopped = !see(s, w)
				}
				over := stopped
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
	wg.Wait()
}

// total is what many histories came to.
type total struct {
	histories, executions, promises int
	faults                          map[string]int
}

func (t *total) add(w *world) {
	x, p := w.excess()
	t.histories++
	t.executions += x
	t.promises += p
	for kind, n := range w.faults {
		t.faults[kind] += n
	}
}

func (t *total) rate() float64 { return float64(t.executions) / float64(t.promises) }

// TestHistories is the gate: nothing lost, nothing settled twice, nothing
// settled by who had lost it, and few executions more than promises.
func TestHistories(t *testing.T) {
	if *seed != 0 {
		w := newWorld(*seed, usual())
		w.log = os.Stdout
		w.run()
		for _, b := range w.broken {
			t.Error(b)
		}
		return
	}
	n := few(*seeds)
	sum := total{faults: map[string]int{}}
	began := time.Now()
	many(n, usual(), func(seed uint64, w *world) bool {
		sum.add(w)
		for _, b := range w.broken {
			t.Errorf("seed %d (-run Histories -seed %d): %s", seed, seed, b)
		}
		return !t.Failed()
	})
	t.Logf("%d histories, %d promises, %.3f executions each, %s", sum.histories, sum.promises, sum.rate(), time.Since(began).Round(time.Millisecond))
	for _, kind := range faultKinds {
		t.Logf("%8d %s", sum.faults[kind], kind)
		if n >= 200 && sum.faults[kind] < n/10 {
			t.Errorf("%s happened %d times in %d histories, less than once in ten", kind, sum.faults[kind], n)
		}
	}
	if n >= 200 && sum.rate() > 1.30 {
		t.Errorf("%.3f executions a promise, more than 1.30", sum.rate())
	}
}

// few is n, or less where histories are slow or nobody has time.
func few(n int) int {
	if racing {
		n /= 20
	}
	if testing.Short() {
		n /= 4
	}
	return max(n, 2)
}

// TestReplay plays 100 histories twice: the traces must be the same.
func TestReplay(t *testing.T) {
	n := few(100)
	traces := map[uint64]uint64{}
	many(n, usual(), func(seed uint64, w *world) bool {
		traces[seed] = w.trace
		return true
	})
	many(n, usual(), func(seed uint64, w *world) bool {
		if traces[seed] != w.trace {
			t.Errorf("seed %d: two traces", seed)
		}
		return true
	})
	different := map[uint64]bool{}
	for _, tr := range traces {
		different[tr] = true
	}
	if len(different) != len(traces) {
		t.Errorf("%d traces of %d seeds", len(different), len(traces))
	}
}

// TestMutants breaks the program in eight ways. Each is caught, or shows in
// how often scripts run.
func TestMutants(t *testing.T) {
	names := map[mutant]string{
		noFence: "no fence", overwritesSettle: "overwriting settle", noSweep: "no sweep", sendFirst: "send before put",
		deleteFirst: "delete before settle", noNonce: "no nonce", indexDecides: "the index decides", clockDecides: "the clock decides",
	}
	for m := noFence; m <= clockDecides; m++ {
		t.Run(names[m], func(t *testing.T) {
			opt := usual()
			opt.mutant = m
			if m == clockDecides {
				opt.wild = 0.5
			}
			noticed(t, opt)
		})
	}
}

// noticed fails unless one of 500 histories shows that the program is broken.
func noticed(t *testing.T, opt options) {
	t.Helper()
	caught, at := "", uint64(0)
	many(500, opt, func(seed uint64, w *world) bool {
		if len(w.broken) > 0 {
			caught, at = w.broken[0], seed
		}
		return caught == ""
	})
	if caught == "" {
		t.Error("not noticed in 500 histories")
	}
	t.Logf("seed %d: %s", at, caught)
}
