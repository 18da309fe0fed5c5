package lambdatest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// An environment that is frozen between two requests does nothing, and answers
// the next one.
func TestFrozen(t *testing.T) {
	w := open(t, func(_ *world, router, _ *Config) { router.Freeze, router.Environments = true, 1 })
	for range 3 {
		w.submit("f")
		w.router.mu.Lock()
		var e *environment
		for e = range w.router.all {
		}
		w.router.mu.Unlock()
		for frozen(t, e) != "T" {
			if t.Context().Err() != nil {
				t.Fatal("it is never frozen")
			}
		}
	}
	if w.router.Starts() != 1 {
		t.Errorf("%d starts", w.router.Starts())
	}
}

// frozen is the state of an environment's process (proc(5)): T is stopped.
func frozen(t *testing.T, e *environment) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}
