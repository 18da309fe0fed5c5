//go:build linux

package chaos

import (
	"context"
	"syscall"
	"testing"
	"time"

	"modulate/internal/engine"
)

// The router killed between storing and sending: the submission runs all the
// same, as soon as its message is taken for lost.
func TestTheRouterKilledBetweenStoringAndSending(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 3*time.Minute), newWorld(t)
	router := w.serve(ctx, t, "router", role{Point: engine.PointWritten, Hit: 1})
	id := w.id("only")
	cli := w.cli(t, "submit", "--wait", "--id", id, "-e", "WITNESS="+w.witness.path, w.file(t, "job.py", "note(\"end\")\nprint(\"ran\")\n"))
	diedThere(ctx, t, router)
	if testing.Short() {
		w.aMinuteLater(ctx, t)
	}
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	noticedNothing(ctx, t, cli, "ran\n")
	w.settled(ctx, t, id)
	a.stop(ctx, t)
	w.check(ctx, t)
}

// Two routers on one store: kill the one that holds a wait; the command line
// ends on the other.
func TestOfTwoRoutersTheOneThatHoldsAWaitIsKilled(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	other := role{Dir: w.dir, Serve: true}.start(t, w, "other")
	address := other.address(ctx, t)
	router := w.serve(ctx, t, "router", role{})
	a := w.worker(t, "a", "--slots", "1")
	g := newGate(t)
	id := w.id("only")
	cli := w.cli(t, "submit", "--wait", "--id", id, "-e", "WITNESS="+w.witness.path,
		w.file(t, "job.py", "gate(\""+g.path+"\")\nnote(\"end\")\nprint(\"ran\")\n"))
	w.witness.saw(ctx, t, id, 1, "start")
	w.front.set(address)
	router.kill()
	g.open(t)
	noticedNothing(ctx, t, cli, "ran\n")
	w.settled(ctx, t, id)
	a.stop(ctx, t)
	w.check(ctx, t)
}

// diedThere waits until a role has killed itself at its point.
func diedThere(ctx context.Context, t *testing.T, c *child) {
	t.Helper()
	c.exit(ctx, t)
	if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Fatalf("%s ended otherwise than at its point: %v", c.name, c.cmd.ProcessState)
	}
}
