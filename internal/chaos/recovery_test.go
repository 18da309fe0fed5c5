//go:build linux

package chaos

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"modulate/internal/promise"
)

// slack is how long after the end of its lease a dead worker's script may
// take to start elsewhere: DESIGN.md, "Recovery is bounded".
const slack = 15 * time.Second

// hangsOnce is a script whose first attempt never ends by itself.
const hangsOnce = `
if ATTEMPT == 1:
    hang()
note("end")
print("the end of attempt", ATTEMPT)
`

// A worker killed mid-script, the sweeper stopped: the queue's redelivery
// alone brings the script to a peer within the lease + 15 s; the waiting CLI
// notices nothing but time.
func TestAWorkerKilledMidScriptIsReplacedByRedeliveryAlone(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	id := w.id("only")
	cli := w.cli(t, "submit", "--wait", "--id", id, "--lease", lease.String(), "-e", "WITNESS="+w.witness.path, w.file(t, "job.py", hangsOnce))
	w.loseMachine(ctx, t, a, id)
	killed := time.Now()
	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	w.witness.saw(ctx, t, id, 2, "start")
	within(t, killed, lease+slack)
	noticedNothing(ctx, t, cli, "the end of attempt 2\n")
	w.settled(ctx, t, id)
	b.stop(ctx, t)
	w.check(ctx, t)
}

// The queue emptied, the sweeper running: the sweep alone does.
func TestAWorkerKilledMidScriptIsReplacedByTheSweepAlone(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	id := w.submit(ctx, t, w.call("only", hangsOnce))
	w.loseMachine(ctx, t, a, id)
	killed := time.Now()
	w.emptyQueue(ctx, t)
	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	w.witness.saw(ctx, t, id, 2, "start")
	within(t, killed, lease+slack)
	w.settled(ctx, t, id)
	b.stop(ctx, t)
	w.check(ctx, t)
}

// A frozen worker (SIGSTOP past its lease) cannot settle after SIGCONT: its
// script came to an end meanwhile, and the outcome is the peer's all the same.
func TestAFrozenWorkerCannotSettle(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	first, second := newGate(t), newGate(t)
	body := "gate({1: \"" + first.path + "\", 2: \"" + second.path + "\"}[ATTEMPT])\nnote(\"end\")\nprint(\"attempt\", ATTEMPT)\n"

	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	id := w.submit(ctx, t, w.call("only", body))
	script := w.held(t, w.witness.saw(ctx, t, id, 1, "start").pid)
	w.freeze(ctx, t, a)
	first.open(t) // the script ends while its worker stands still
	w.witness.saw(ctx, t, id, 1, "end")

	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	w.witness.saw(ctx, t, id, 2, "start")
	a.signal(t, syscall.SIGCONT)
	gone(t, script, 10*time.Second)
	// The one slot of b is taken, so the next script runs on a: by then a has
	// tried to settle the first.
	next := w.submit(ctx, t, w.call("next", "note(\"end\")\n"))
	if p := w.settled(ctx, t, next); p.Attempts[0].Worker != "a" {
		t.Fatalf("%s ran on %s, want a", next, p.Attempts[0].Worker)
	}
	second.open(t)
	p := w.settled(ctx, t, id)
	if got, want := p.Outcome.Stdout.Tail, "attempt 2\n"; got != want {
		t.Errorf("the outcome is that of %q, want %q", got, want)
	}
	a.stop(ctx, t)
	b.stop(ctx, t)
	w.check(ctx, t)
}

// Ten workers frozen at once, each with a script that ends meanwhile: every
// outcome is that of the peers, and none changes when all ten go on.
func TestTenFrozenWorkersCannotSettle(t *testing.T) {
	t.Parallel()
	const frozen = 10
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	g := newGate(t)
	body := "if ATTEMPT == 1: gate(\"" + g.path + "\")\nnote(\"end\")\nprint(\"attempt\", ATTEMPT)\n"
	var workers []*child
	var ids []string
	for n := range frozen {
		name := fmt.Sprintf("f%d", n)
		workers = append(workers, w.worker(t, name, "--slots", "1", "--no-sweep"))
		ids = append(ids, w.submit(ctx, t, w.call(name, body)))
	}
	for _, id := range ids {
		w.witness.saw(ctx, t, id, 1, "start")
	}
	for _, worker := range workers {
		w.freeze(ctx, t, worker)
	}
	g.open(t)
	peer := w.worker(t, "peer", "--slots", "4", "--no-sweep")
	for _, id := range ids {
		if p := w.settled(ctx, t, id); p.Outcome.Stdout.Tail != "attempt 2\n" {
			t.Errorf("%s: the outcome is that of %q, want attempt 2", id, p.Outcome.Stdout.Tail)
		}
	}
	for _, worker := range workers {
		worker.signal(t, syscall.SIGCONT)
		worker.stop(ctx, t)
	}
	peer.stop(ctx, t)
	w.check(ctx, t)
}

// A frozen worker kills, once it goes on, a script that runs past its lease.
func TestAFrozenWorkerKillsItsStaleScript(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	id := w.submit(ctx, t, w.call("only", hangsOnce))
	script := w.held(t, w.witness.saw(ctx, t, id, 1, "start").pid)
	w.freeze(ctx, t, a)
	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	w.settled(ctx, t, id)
	a.signal(t, syscall.SIGCONT)
	gone(t, script, 10*time.Second)
	a.stop(ctx, t)
	b.stop(ctx, t)
	w.check(ctx, t)
}

// A worker cut from the store for less than the lease settles late.
func TestAWorkerCutOffForLessThanTheLeaseSettlesLate(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "1")
	g := newGate(t)
	call := w.call("only", "gate(\""+g.path+"\")\nnote(\"end\")\n")
	*call.LeaseMS = 6000
	id := w.submit(ctx, t, call)
	script := w.held(t, w.witness.saw(ctx, t, id, 1, "start").pid)
	reconnect := w.cut(ctx, t)
	cut := time.Now()
	g.open(t)
	gone(t, script, 10*time.Second)
	// Half the lease: longer than any single write is waited for.
	pass(ctx, t, a, 3*time.Second-time.Since(cut))
	reconnect()
	p := w.settled(ctx, t, id)
	if p.State != promise.Resolved.String() || len(p.Attempts) != 1 {
		t.Errorf("%s after %d attempts, want resolved after 1", p.State, len(p.Attempts))
	}
	a.stop(ctx, t)
	w.check(ctx, t)
}

// A worker cut from the store for longer than the lease kills its script; the
// script runs again and no retry is spent.
func TestAWorkerCutOffForLongerRunsTheScriptAgain(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "1")
	call := w.call("only", hangsOnce)
	call.Retry = once()
	id := w.submit(ctx, t, call)
	script := w.held(t, w.witness.saw(ctx, t, id, 1, "start").pid)
	reconnect := w.cut(ctx, t)
	gone(t, script, lease)
	// Nobody may have it before its lease is over for everyone.
	pass(ctx, t, a, lease+promise.Skew)
	reconnect()
	w.witness.saw(ctx, t, id, 2, "start")
	p := w.settled(ctx, t, id)
	if p.State != promise.Resolved.String() || len(p.Attempts) != 2 {
		t.Errorf("%s after %d attempts, want resolved after 2", p.State, len(p.Attempts))
	}
	if rec := w.record(ctx, t, id); rec.Retries != 0 {
		t.Errorf("%d retries were spent, want none", rec.Retries)
	}
	a.stop(ctx, t)
	w.check(ctx, t)
}
