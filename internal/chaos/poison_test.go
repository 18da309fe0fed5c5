//go:build linux

package chaos

import (
	"strings"
	"testing"
	"time"

	"modulate/internal/promise"
)

// A script whose keeper is killed under it, each time: the attempt ends as lost
// at once, and the next one runs. After exactly as many attempts as a promise
// may lose, and one, it is given up, and says how they ended.
func TestAPoisonScriptIsGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the waits after a lost attempt come to a minute")
	}
	t.Parallel()
	ctx, w := deadline(t, 4*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	last := w.worker(t, "last", "--slots", "1")
	call := w.call("poison", "hang()\n")
	*call.LeaseMS = time.Hour.Milliseconds() / 4 // nobody waits for its end
	id := w.submit(ctx, t, call)
	for n := range promise.MaxCrashes + 1 {
		script := w.witness.saw(ctx, t, id, uint32(n+1), "start").pid
		w.held(t, parentOf(script)).kill(t)
	}
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
