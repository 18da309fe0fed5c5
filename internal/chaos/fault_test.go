//go:build linux

package chaos

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modulate/internal/api"
)

// A gate holds up scripts that pass through it until it is opened.
type gate struct {
	path string
	file *os.File
}

// newGate makes a FIFO; a script that reads it waits.
func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{path: filepath.Join(t.TempDir(), "gate")}
	if err := syscall.Mkfifo(g.path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Both ends: neither this nor the scripts' opening ever waits.
	file, err := os.OpenFile(g.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.file = file
	t.Cleanup(func() { file.Close() })
	return g
}

// open lets a hundred scripts through, now or later.
func (g *gate) open(t *testing.T) {
	t.Helper()
	if _, err := g.file.WriteString(strings.Repeat("-", 100)); err != nil {
		t.Fatal(err)
	}
}

// gone fails the test unless the process ends within limit.
func gone(t *testing.T, h handle, limit time.Duration) {
	t.Helper()
	if err := h.ended(limit); err != nil {
		t.Error(err)
	}
}

// within fails the test when more time than limit has passed since then.
func within(t *testing.T, since time.Time, limit time.Duration) {
	t.Helper()
	if took := time.Since(since); took > limit {
		t.Errorf("it took %s, want %s at most", took.Round(time.Millisecond), limit)
	}
}

// pass lets time go by for a worker, which must live through it.
func pass(ctx context.Context, t *testing.T, worker *child, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-worker.gone:
		t.Fatalf("%s ended", worker.name)
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

// once is a policy that allows no more than one attempt.
func once() *api.Retry { return &api.Retry{Policy: "constant", MaxAttempts: 1} }

// noticedNothing fails the test unless a command that waited ended as if
// nothing had happened.
func noticedNothing(ctx context.Context, t *testing.T, cli *child, stdout string) {
	t.Helper()
	if code := cli.exit(ctx, t); code != 0 {
		t.Errorf("the waiting command exited with %d, want 0", code)
	}
	if got := cli.stdout.String(); got != stdout {
		t.Errorf("the waiting command printed %q, want %q", got, stdout)
	}
	if got := cli.stderr.String(); got != "" {
		t.Errorf("the waiting command complained: %q", got)
	}
}

// cut holds the store's write lock, so that nobody else can write, until the
// function that it returns is called.
func (w *world) cut(ctx context.Context, t *testing.T) (reconnect func()) {
	t.Helper()
	conn, err := w.database(t).Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
}

// freeze stops a worker by SIGSTOP, outside of a commit: stopped within one it
// would stall SQLite for everybody else, and stopped in its turn slow them down.
// With the turn and the write lock in our hands it is in neither.
func (w *world) freeze(ctx context.Context, t *testing.T, worker *child) {
	t.Helper()
	turn, err := os.Open(w.storeFile() + "-turn")
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	release := w.cut(ctx, t)
	defer release()
	worker.signal(t, syscall.SIGSTOP)
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, worker.cmd.Process.Pid, &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatalf("waiting for %s to stop: %v", worker.name, err)
	}
}

// emptyQueue deletes every message.
func (w *world) emptyQueue(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := w.database(t).ExecContext(ctx, "DELETE FROM message"); err != nil {
		t.Fatal(err)
	}
}
