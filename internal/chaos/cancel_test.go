//go:build linux

package chaos

import (
	"testing"
	"time"

	"modulate/internal/promise"
)

// Cancel kills a script and its children within the extension + 10 s: a plain
// child, one in a session of its own whose parent is dead, and one that
// ignores SIGTERM.
func TestCancelKillsAScriptAndItsChildren(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "1")
	id := w.submit(ctx, t, w.call("only", `
if os.fork() == 0:
    note("child")
    hang()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("grandchild")
        hang()
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("script")
hang()
`))
	var tree []handle
	for _, who := range []string{"child", "grandchild", "script"} {
		tree = append(tree, w.held(t, w.witness.saw(ctx, t, id, 1, who).pid))
	}
	began := time.Now()
	cli := w.cli(t, "cancel", id)
	if code := cli.exit(ctx, t); code != 0 {
		t.Errorf("cancel exited with %d, want 0", code)
	}
	const extension = lease / 3
	for _, process := range tree {
		gone(t, process, time.Until(began.Add(extension+10*time.Second)))
	}
	if p := w.settled(ctx, t, id); p.State != promise.Canceled.String() {
		t.Errorf("the promise is %s, want rejected_canceled", p.State)
	}
	a.stop(ctx, t)
	w.check(ctx, t)
}
