//go:build linux

package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"modulate/internal/promise"
)

// A script that kills whoever runs it, each time: after exactly as many
// attempts as a promise may lose, and one, it is given up, and says how they
// ended. The worker that is left goes on.
func TestAPoisonScriptIsGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("short: six leases run out")
	}
	t.Parallel()
	ctx, w := deadline(t, 4*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	id := w.submit(ctx, t, w.call("poison", "os.kill(os.getppid(), 9)\nhang()\n"))
	for n := range promise.MaxCrashes + 1 {
		w.worker(t, fmt.Sprintf("w%d", n), "--slots", "1").exit(ctx, t)
	}
	last := w.worker(t, "last", "--slots", "1")
	p := w.settled(ctx, t, id)
	if p.Outcome.Cause != string(promise.CauseExhausted) || len(p.Attempts) != promise.MaxCrashes+1 {
		t.Errorf("it is %s (%s) after %d attempts, want exhausted after %d", p.State, p.Outcome.Cause, len(p.Attempts), promise.MaxCrashes+1)
	}
	if p.Outcome.Error == nil || strings.Count(p.Outcome.Error.Detail, string(promise.CauseLost)) != promise.MaxCrashes+1 {
		t.Errorf("it says %+v of how they ended", p.Outcome.Error)
	}
	next := w.submit(ctx, t, w.call("next", "note(\"end\")\n"))
	if p := w.settled(ctx, t, next); p.State != promise.Resolved.String() {
		t.Errorf("the next script is %s", p.State)
	}
	last.stop(ctx, t)
	w.check(ctx, t)
}
