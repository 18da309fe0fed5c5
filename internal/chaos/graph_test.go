//go:build linux

package chaos

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// A parent that submits through its worker's socket. The child's script is its
// own, told by an argument that it is the child.
const family = `
import subprocess
def spawn(*flags):
    out = subprocess.run([os.environ["CLI"], "submit", *flags, "-e", "WITNESS=" + os.environ["WITNESS"],
        "--lease", "2s", "child.py"], check=True, capture_output=True, text=True)
    note("spawned " + out.stdout.strip())
    return out.stdout.strip()
`

// parent is a submission of a script that submits others; child is the body
// of what it submits.
func (w *world) parent(ctx context.Context, t *testing.T, body, child string) api.Submit {
	t.Helper()
	call := w.call("parent", family+body)
	call.Files = []api.File{w.upload(ctx, t, "child.py", prelude+child)}
	call.Env["CLI"] = program("modulate")
	return call
}

// A parent killed after its second of three children runs again and ends with
// three children, not five: with its machine lost, and with its script alone.
func TestAParentKilledAfterItsSecondChildEndsWithThree(t *testing.T) {
	t.Parallel()
	const body = `
for n in range(3):
    spawn()
    if n == 1 and ATTEMPT == 1:
        %s
note("end")
`
	for name, end := range map[string]string{"machine": "hang()", "script": "os.kill(os.getpid(), signal.SIGKILL)"} {
		t.Run(name, func(t *testing.T) {
			ctx, w := deadline(t, 2*time.Minute), newWorld(t)
			w.serve(ctx, t, "server", role{Sweep: true})
			a := w.worker(t, "a", "--slots", "1")
			call := w.parent(ctx, t, fmt.Sprintf(body, end), "note(\"end\")\n")
			call.Retry = &api.Retry{Policy: "constant", MaxAttempts: 2, DelayMS: 1}
			id := w.submit(ctx, t, call)
			w.witness.saw(ctx, t, id, 1, "spawned "+promise.ChildID(id, 2))
			if name == "machine" {
				w.loseMachine(ctx, t, a, id)
				w.aMinuteLater(ctx, t) // for the second child
				a = w.worker(t, "a", "--slots", "1")
			}
			p := w.settled(ctx, t, id)
			if p.State != promise.Resolved.String() {
				t.Errorf("the parent is %s, want resolved", p.State)
			}
			w.wantChildren(ctx, t, id, 3, promise.Resolved)
			a.stop(ctx, t)
			w.check(ctx, t)
		})
	}
}

// A detached child of a script that ends at once goes on.
func TestADetachedChildGoesOn(t *testing.T) {
	t.Parallel()
	ctx, w := deadline(t, 2*time.Minute), newWorld(t)
	w.serve(ctx, t, "server", role{Sweep: true})
	a := w.worker(t, "a", "--slots", "2")
	g := newGate(t)
	call := w.parent(ctx, t, "spawn(\"--mode\", \"detached\")\nnote(\"end\")\n", "gate(\""+g.path+"\")\nnote(\"end\")\n")
	id := w.submit(ctx, t, call)
	child := promise.DetachedID(id, 1)
	w.settled(ctx, t, id)
	w.witness.saw(ctx, t, child, 1, "start")
	g.open(t)
	if p := w.settled(ctx, t, child); p.State != promise.Resolved.String() {
		t.Errorf("the child is %s, want resolved", p.State)
	}
	a.stop(ctx, t)
	w.check(ctx, t)
}

// An rfi child is not cancelled when its parent merely ends.
func TestAnRFIChildGoesOnWhenItsParentMerelyEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"resolved": "", "rejected": "sys.exit(3)"} {
		t.Run(name, func(t *testing.T) {
			ctx, w := deadline(t, 2*time.Minute), newWorld(t)
			w.serve(ctx, t, "server", role{Sweep: true})
			a := w.worker(t, "a", "--slots", "2")
			g := newGate(t)
			id := w.submit(ctx, t, w.parent(ctx, t, "spawn()\nnote(\"end\")\n"+end, "gate(\""+g.path+"\")\nnote(\"end\")\n"))
			if p := w.settled(ctx, t, id); p.State != name {
				t.Errorf("the parent is %s, want %s", p.State, name)
			}
			child := promise.ChildID(id, 1)
			w.witness.saw(ctx, t, child, 1, "start")
			g.open(t)
			if p := w.settled(ctx, t, child); p.State != promise.Resolved.String() {
				t.Errorf("the child is %s, want resolved", p.State)
			}
			a.stop(ctx, t)
			w.check(ctx, t)
		})
	}
}

// An rfi child is cancelled when its parent is cancelled or timed out, also
// when the canceller is killed half-way.
func TestAnRFIChildIsCancelledWithItsParent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deadline int64 // of the parent, in milliseconds; 0: it is cancelled
		point    string
	}{
		"cancelled":                  {0, ""},
		"timed out":                  {20_000, ""},
		"cancelled, killed half-way": {0, engine.PointCancelled},
		"cancelled, killed at first": {0, engine.PointWritten},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, w := deadline(t, 2*time.Minute), newWorld(t)
			server := w.serve(ctx, t, "server", role{Sweep: c.point == ""})
			a := w.worker(t, "a", "--slots", "4", "--no-sweep")
			call := w.parent(ctx, t, "for n in range(3): spawn()\nhang()\n", "hang()\n")
			if c.deadline > 0 {
				call.DeadlineMS = &c.deadline
				call.TimeoutMS = &c.deadline // of an attempt, which began later
			}
			id := w.submit(ctx, t, call)
			for n := 1; n <= 3; n++ {
				w.witness.saw(ctx, t, promise.ChildID(id, n), 1, "start")
			}
			if c.point != "" {
				server.kill()
				server = w.serve(ctx, t, "canceller", role{Point: c.point, Hit: 1})
			}
			if c.deadline == 0 {
				w.cli(t, "cancel", id)
			}
			if c.point != "" {
				diedThere(ctx, t, server)
				w.serve(ctx, t, "successor", role{Sweep: true})
			}
			w.settled(ctx, t, id)
			w.wantChildren(ctx, t, id, 3, promise.Canceled)
			a.stop(ctx, t)
			w.check(ctx, t)
		})
	}
}

// wantChildren waits until id's children have ended, and fails the test unless
// there are n of them, all in that state.
func (w *world) wantChildren(ctx context.Context, t *testing.T, id string, n int, state promise.State) {
	t.Helper()
	for i := 1; i <= n; i++ {
		if p := w.settled(ctx, t, promise.ChildID(id, i)); p.State != state.String() {
			t.Errorf("%s is %s, want %s", p.ID, p.State, state)
		}
	}
	children := w.children(ctx, t, id)
	if len(children) != n {
		t.Errorf("%s has %d children, want %d: %v", id, len(children), n, children)
	}
}

// upload puts an input file among the blobs.
func (w *world) upload(ctx context.Context, t *testing.T, name, content string) api.File {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	err := w.insist(ctx, func() error {
		return w.client.PutBlob(ctx, sum, int64(len(content)), func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content)), nil
		})
	})
	if err != nil {
		t.Fatalf("uploading %s: %v", name, err)
	}
	return api.File{Name: name, SHA256: promise.Hash(sum).String(), Size: int64(len(content))}
}
