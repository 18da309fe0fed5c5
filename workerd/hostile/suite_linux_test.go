package hostile

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/workerd/host"
	"modulate/workerd/keeper"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// hidden is what no script may ever get to see: it stands in files and in the
// environment of processes on the host.
const hidden = "canary-5f0c9d41"

// within is how long a script may take to be contained.
const within = 10 * time.Second

func TestMain(m *testing.M) {
	if keeper.Called(os.Args) {
		syscall.Exit(keeper.Main()) // not os.Exit, where the race detector waits a second
	}
	os.Exit(m.Run())
}

// An attack is a script that means harm, and how it is to end.
type attack struct {
	name   string
	script string // after the prelude
	cause  promise.Cause
	or     promise.Cause  // on a machine that is slow
	signal syscall.Signal // when cause is signal
	amd64  bool           // it is for this architecture
	check  func(y *yard, rec promise.Record, seen string)
}

// prelude is what the scripts have in common. breach says that something worked
// that must not.
const prelude = `
import ctypes, errno, os, resource, shutil, signal, socket, stat, subprocess, sys, time
def breach(what): print("BREACH", what, flush=True)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, b"NAME")  # PR_SET_NAME
def call(*args): return libc.syscall(*args), ctypes.get_errno()
def denied(what, *args):
    got, err = call(*args)
    if got >= 0 or err != errno.EPERM: breach(f"{what}: {got}, {errno.errorcode.get(err)}")
`

// text is the whole script.
func (a attack) text() string { return strings.Replace(prelude, "NAME", processName(), 1) + a.script }

// timeout is that of the attacks that never end: they are to end by it.
const timeout = 3 * time.Second

func TestHostileScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	if _, err := exec.LookPath("bwrap"); err != nil || os.Geteuid() != 0 {
		t.Skip("it takes bubblewrap, and root for uids and groups")
	}
	before := held(t)
	t.Cleanup(func() { // after the last script's machine is closed
		for what, n := range held(t) {
			if n != before[what] {
				t.Errorf("%d %s, and %d before", n, what, before[what])
			}
		}
	})
	signal := t.TempDir()
	c := boxed(t, host.Machine{
		Slot:    host.Slot{Memory: 128 << 20, CPU: 1, PIDs: 64, Scratch: 32 << 20},
		Sandbox: host.Sandbox{Mounts: []host.Mount{{Source: signal, Target: "/signal"}}},
	})
	y := newYard(t, c)
	done := y.neighbour(signal)
	for _, list := range [][]attack{resources, streams, processes, kernel, reach} {
		for _, a := range list {
			t.Run(a.name, func(t *testing.T) {
				if a.amd64 && runtime.GOARCH != "amd64" {
					return
				}
				y := *y
				y.t = t
				y.suffer(a)
			})
		}
	}
	if err := os.WriteFile(filepath.Join(signal, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	done()
}

// suffer runs an attack and looks at what came of it.
func (y *yard) suffer(a attack) {
	began := time.Now()
	limit := within // which a busy machine may come near to
	if a.cause == promise.CauseTimeout || a.or == promise.CauseTimeout {
		limit = timeout
	}
	rec, seen := y.run(strings.Map(idRune, a.name), a.text(), limit)
	if took := time.Since(began); took > within {
		y.t.Errorf("contained after %v, later than %v", took, within)
	}
	out := rec.Outcome
	if out.Cause != a.cause && out.Cause != a.or || a.signal != 0 && out.Signal != int(a.signal) {
		y.t.Errorf("ended by %s (exit %d, signal %d), want %s; it wrote %.2000q, %.2000q", out.Cause, out.ExitCode, out.Signal, a.cause, out.Stdout.Tail, out.Stderr.Tail)
	}
	if at := strings.Index(seen, "BREACH"); at >= 0 {
		y.t.Errorf("%.300q", seen[at:])
	}
	if strings.Contains(seen, hidden) {
		y.t.Errorf("it got hold of the canary: %.2000q", seen)
	}
	if n := y.heard.Load(); n > 0 {
		y.t.Errorf("%d connections to the host's listeners", n)
	}
	if secret, err := os.ReadFile(y.secret); err != nil || string(secret) != hidden {
		y.t.Errorf("the host's file has become %q, %v", secret, err)
	}
	if left := y.survivors(); len(left) > 0 {
		y.t.Errorf("%d processes have survived: %q", len(left), left)
	}
	if a.check != nil {
		a.check(y, rec, seen)
	}
}

func idRune(r rune) rune {
	if promise.ValidID("x" + string(r)) {
		return r
	}
	return '-'
}

// A machine is what scripts run on.
type machine struct {
	runner   runner.Runner
	runtimes map[string][]string
}

// boxed is this machine with all that contains scripts here.
func boxed(t *testing.T, m host.Machine) machine {
	t.Helper()
	plan, err := m.Plan(1)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Sandbox.Level != sandbox.Bwrap || plan.Missing != "" {
		t.Fatalf("this machine contains scripts by %s: %s", plan.Sandbox.Level, plan.Missing)
	}
	k, err := runner.OpenKept(runner.KeptConfig{
		Dir: t.TempDir(), Spool: t.TempDir(), Program: "/proc/self/exe", Prefix: "k.cpu.",
		Box: &runner.BoxConfig{Sandbox: plan.Sandbox, Cgroups: true}, Park: plan.Runtimes["python"],
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return machine{k, plan.Runtimes}
}

// held counts what this process and its host hold for scripts.
func held(t *testing.T) map[string]int {
	t.Helper()
	count := func(pattern string) int {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]int{
		"descriptors": count("/proc/self/fd/*"), "mounts": bytes.Count(mounts, []byte("\n")), "children": len(strings.Fields(string(children))),
	}
}
