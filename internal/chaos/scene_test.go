//go:build linux

package chaos

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// A scene is what a test has whatever the store: the names of its submissions,
// the witness, and what waiters were told.
type scene struct {
	spools  func() string // where the workers have their spools
	tmp     string        // where the programs put their temporary files
	tag     string        // every id of the test contains it, and no other process's environment does
	witness *witness

	mu    sync.Mutex
	first map[string]api.Promise // what was told when the end was first seen
}

func newScene(t *testing.T) *scene {
	t.Helper()
	return &scene{
		tmp: shortTempDir(t), tag: strings.ToLower(rand.Text()[:10]),
		witness: newWitness(t), first: map[string]api.Promise{},
	}
}

// id is the id of a submission of this test.
func (s *scene) id(name string) string { return s.tag + "-" + name }

// lease is that of most scripts: short, and yet long enough for a loaded
// machine to extend it in time.
const lease = 2 * time.Second

// call is a submission of a Python script: the prelude, then body.
func (s *scene) call(name, body string) api.Submit {
	source, lease := prelude+body, lease.Milliseconds()
	return api.Submit{
		ID:      s.id(name),
		Machine: "cpu",
		Script:  api.Script{Name: "script.py", Source: &source},
		Env:     map[string]string{"WITNESS": s.witness.path},
		LeaseMS: &lease,
	}
}

func (s *scene) env() []string { return []string{"TMPDIR=" + s.tmp} }

// tell keeps a terminal answer for the checker.
func (s *scene) tell(p api.Promise) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.first[p.ID]; !known {
		s.first[p.ID] = p
	}
}

// checkRecords is what is wrong with what was stored: past is all that ever was
// under each id, oldest first.
func (s *scene) checkRecords(ctx context.Context, t *testing.T, e *engine.Engine, past map[string][]promise.Record) {
	t.Helper()
	attempts := map[string][]promise.Attempt{}
	for id, forms := range past {
		for _, wrong := range checkHistory(forms) {
			t.Errorf("%s: %s", id, wrong)
		}
		last := forms[len(forms)-1]
		if !last.State.Terminal() {
			t.Errorf("%s is lost: %s, task %s, attempt %d", id, last.State, last.Task.State, last.Attempt)
		}
		all, err := e.Attempts(ctx, last)
		if err != nil {
			t.Errorf("attempts of %s: %v", id, err)
		}
		attempts[id] = all
	}
	s.checkWitness(t, past, attempts)
	s.checkTold(t, past)
}

// checkWitness holds what the scripts say against what the store knows.
func (s *scene) checkWitness(t *testing.T, past map[string][]promise.Record, attempts map[string][]promise.Attempt) {
	t.Helper()
	type run struct {
		id      string
		attempt uint32
	}
	starts, ends := map[run]int{}, map[run]int{}
	entries, _ := s.witness.all()
	for _, e := range entries {
		at := run{e.id, e.attempt}
		switch e.what {
		case "start":
			starts[at]++
		case "end":
			ends[at]++
		}
	}
	for at, n := range starts {
		if n > 1 {
			t.Errorf("%s: attempt %d started %d times", at.id, at.attempt, n)
		}
		if !slices.ContainsFunc(attempts[at.id], func(a promise.Attempt) bool { return a.Number == at.attempt }) {
			t.Errorf("%s: the store knows nothing of attempt %d, which ran", at.id, at.attempt)
		}
	}
	for id, forms := range past {
		last := forms[len(forms)-1]
		for i, a := range attempts[id] {
			if a.Number != uint32(i+1) {
				t.Errorf("%s: attempt %d is told as number %d", id, i+1, a.Number)
			}
			won := last.State == promise.Resolved && a.Version == last.Outcome.Version
			if won && ends[run{id, a.Number}] != 1 {
				t.Errorf("%s: resolved by attempt %d, which did not come to its end", id, a.Number)
			}
		}
	}
}

// checkTold holds what a waiter was told first against what is stored last.
func (s *scene) checkTold(t *testing.T, past map[string][]promise.Record) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, told := range s.first {
		forms := past[id]
		if len(forms) == 0 {
			t.Errorf("%s was told as %s and is not in the store", id, told.State)
			continue
		}
		last := forms[len(forms)-1]
		if told.State != last.State.String() || told.Outcome == nil || told.Outcome.Cause != string(last.Outcome.Cause) ||
			told.SettledAt == nil || !told.SettledAt.Equal(last.SettledAt.Std()) {
			t.Errorf("%s was told as %s (%+v at %v), and is stored as %s", id, told.State, told.Outcome, told.SettledAt, ending(last))
		}
	}
}

// checkLeftovers looks for processes and files that should be gone; of the
// spools their lock is left.
func (s *scene) checkLeftovers(t *testing.T, spools string) {
	t.Helper()
	for _, pid := range s.processes(t) {
		t.Errorf("process %d of a script is left", pid)
	}
	for _, dir := range []string{spools, s.tmp} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && path != dir && path != filepath.Join(spools, "lock") {
				t.Errorf("%s is left", path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// processes returns the processes whose environment names a submission of
// this test.
func (s *scene) processes(t *testing.T) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		environ, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone, or not ours
		}
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if id, ok := bytes.CutPrefix(v, []byte("MODULATE_ID=")); ok && bytes.Contains(id, []byte(s.tag)) {
				var pid int
				fmt.Sscanf(path, "/proc/%d/", &pid)
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// loseMachine has a worker's machine go away once it runs the first attempt of
// id: the worker, the keeper with the script, and their disk.
func (s *scene) loseMachine(ctx context.Context, t *testing.T, worker *child, id string) {
	t.Helper()
	pid := s.witness.saw(ctx, t, id, 1, "start").pid
	script := s.held(t, pid)
	keeper := s.held(t, parentOf(pid))
	worker.kill()
	keeper.kill(t)
	gone(t, script, 5*time.Second)
	if err := os.RemoveAll(filepath.Join(s.spools(), worker.name)); err != nil {
		t.Fatal(err)
	}
}

// held returns a handle on a script that runs.
func (s *scene) held(t *testing.T, pid int) handle {
	t.Helper()
	h, ok := hold(t, pid)
	if !ok {
		t.Fatalf("script %d does not run any more", pid)
	}
	return h
}

// scriptsOf returns handles on the scripts that run under a worker now.
func (s *scene) scriptsOf(t *testing.T, worker *child) []handle {
	t.Helper()
	entries, _ := s.witness.all()
	running := map[int]bool{}
	for _, e := range entries {
		running[e.pid] = e.what != "end"
	}
	var scripts []handle
	for pid, yes := range running {
		if yes && parentOf(parentOf(pid)) == worker.cmd.Process.Pid { // between them is its keeper
			if h, ok := hold(t, pid); ok {
				scripts = append(scripts, h)
			}
		}
	}
	return scripts
}

// shortTempDir is like t.TempDir, which after a test's name leaves no room for
// the path of a socket.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
