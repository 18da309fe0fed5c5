//go:build linux

package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// full asks for the sizes of the gate, which take minutes: make keepers.
var full = flag.Bool("full", false, "run what a machine needs minutes for")

// counts is a script that says one number after the other until a file is
// there, and then how many there were.
const counts = `
n = 0
while not os.path.exists(%q):
    print(n, flush=True)
    n += 1
    time.sleep(%g)
print("of", n, file=sys.stderr)
note("end")
`

// workerd killed with kill -9 again and again under scripts that run: each
// ends in one attempt, and every byte of its output is there once.
func TestWorkerdKilledUnderItsScripts(t *testing.T) {
	t.Parallel()
	scripts, kills, pause := 12, 8, 0.05
	limit := 3 * time.Minute
	if *full {
		scripts, kills, pause, limit = 200, 100, 1.0, 15*time.Minute
	}
	ctx, w := deadline(t, limit), newWorld(t)
	w.serve(ctx, t, "router", role{})
	stop := filepath.Join(t.TempDir(), "stop")
	start := func() *child { return w.worker(t, "a", "--slots", fmt.Sprint(scripts), "--verbose") }
	worker := start()
	var ids []string
	for n := range scripts {
		call := w.call(fmt.Sprintf("%03d", n), fmt.Sprintf(counts, stop, pause))
		*call.LeaseMS = (2 * time.Minute).Milliseconds() // a busy machine is no fault here
		timeout := limit.Milliseconds()
		call.TimeoutMS = &timeout
		ids = append(ids, w.submit(ctx, t, call))
	}
	for _, id := range ids {
		w.witness.saw(ctx, t, id, 1, "start")
	}
	for n := range kills {
		worker.kill()
		worker = start()
		adopted := scripts
		if n%2 == 0 {
			adopted = 1 // in the midst of it
		}
		if err := worker.stderr.awaitCount(ctx, adopted, func(s string) bool { return strings.Contains(s, "an attempt begins") }); err != nil {
			t.Fatalf("after kill %d: %v", n+1, err)
		}
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		w.countedWhole(ctx, t, id)
	}
	worker.stop(ctx, t)
	w.check(ctx, t)
}

// countedWhole fails unless the script of id ended well in its first attempt
// with every number that it said.
func (w *world) countedWhole(ctx context.Context, t *testing.T, id string) {
	t.Helper()
	p := w.settled(ctx, t, id)
	if p.State != promise.Resolved.String() || len(p.Attempts) != 1 {
		t.Errorf("%s is %s after %d attempts", id, p.State, len(p.Attempts))
		return
	}
	var n int
	if _, err := fmt.Sscanf(w.stream(ctx, t, id, "stderr"), "of %d\n", &n); err != nil {
		t.Errorf("%s does not say how many there are: %v", id, err)
	}
	var want strings.Builder
	for i := range n {
		fmt.Fprintln(&want, i)
	}
	if got := w.stream(ctx, t, id, "stdout"); got != want.String() {
		t.Errorf("%s wrote %d bytes, and %d are there, or others: %.200q", id, want.Len(), len(got), got)
	}
}

// stream returns all of a stream.
func (w *world) stream(ctx context.Context, t *testing.T, id, name string) string {
	t.Helper()
	var all strings.Builder
	for offset := int64(0); ; {
		page, err := w.client.Log(ctx, id, api.LogQuery{Stream: name, Offset: offset})
		if err != nil {
			t.Fatalf("reading %s of %s: %v", name, id, err)
		}
		all.Write(page.Body)
		if offset = page.Next; page.End {
			return all.String()
		}
	}
}

// A worker that is told to hand over ends at once and touches no script; the
// next one settles them.
func TestHandOver(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	g := newGate(t)
	a := w.worker(t, "a", "--slots", "1", "--no-sweep", "--drain", "0s")
	call := w.call("only", "print(1, flush=True)\ngate(\""+g.path+"\")\nprint(2)\nnote(\"end\")\n")
	*call.LeaseMS = time.Minute.Milliseconds()
	id := w.submit(ctx, t, call)
	w.witness.saw(ctx, t, id, 1, "start")
	a.signal(t, syscall.SIGHUP)
	if code := a.exit(ctx, t); code != 0 {
		t.Errorf("it exited with %d", code)
	}
	g.open(t)
	w.witness.saw(ctx, t, id, 1, "end") // while nobody is there
	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	if p := w.settled(ctx, t, id); len(p.Attempts) != 1 || p.Outcome.Stdout.Tail != "1\n2\n" {
		t.Errorf("%s after %d attempts, stdout %q", p.State, len(p.Attempts), p.Outcome.Stdout.Tail)
	}
	b.stop(ctx, t)
	w.check(ctx, t)
}

// A worker that stands still: its keeper kills the script before the lease is
// over for others.
func TestAFrozenWorkersScriptIsDeadBeforeItsLeaseIsOver(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "router", role{})
	a := w.worker(t, "a", "--slots", "1", "--no-sweep")
	id := w.submit(ctx, t, w.call("only", livesOnce))
	script := w.held(t, w.witness.saw(ctx, t, id, 1, "start").pid)
	w.freeze(ctx, t, a)
	gone(t, script, 2*lease)
	if lived, end := w.lived(t, id), w.record(ctx, t, id).Task.LeaseEnd; lived > end {
		t.Errorf("the script lived %s after the end of its lease", lived.Sub(end))
	}
	b := w.worker(t, "b", "--slots", "1", "--no-sweep")
	w.settled(ctx, t, id)
	a.signal(t, syscall.SIGCONT)
	a.stop(ctx, t)
	b.stop(ctx, t)
	w.check(ctx, t)
}
