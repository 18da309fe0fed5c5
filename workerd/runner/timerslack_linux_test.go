package runner_test

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
)

// Timers are as exact in a script as anywhere, whatever its worker has given up
// of that for itself.
func TestScriptsHaveTheTimersOfOthers(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 700_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	says := func(t *testing.T, run func(context.Context, runner.Job) runner.Result) {
		t.Helper()
		var out bytes.Buffer
		r := run(t.Context(), job(python, "import ctypes; print(ctypes.CDLL(None).prctl(30, 0, 0, 0, 0))", func(j *runner.Job) { // PR_GET_TIMERSLACK
			j.Stdout, j.Stderr = &out, os.Stderr
		}))
		if got := strings.TrimSpace(out.String()); r.End != runner.Exited || got != "50000" {
			t.Errorf("%+v, %q ns, want 50000", r, got)
		}
	}
	says(t, runner.Exec{Dir: t.TempDir()}.Run)
	for name, open := range map[string]func() *daemon{
		"kept":   func() *daemon { return newDaemon(t, nil) },
		"forked": func() *daemon { return forking(t, job(python, "").Command) },
		"boxed":  func() *daemon { return boxed(t, nil, ample) },
	} {
		d := open() // its keepers are started by this thread
		t.Run(name, func(t *testing.T) { says(t, d.Run) })
		d.end(t)
	}
}
