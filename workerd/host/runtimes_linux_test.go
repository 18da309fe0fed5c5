package host_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"modulate/workerd/host"
	"modulate/workerd/keeper"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// TestMain runs this binary as a keeper, or as a user, where it is called one.
func TestMain(m *testing.M) {
	switch {
	case keeper.Called(os.Args):
		syscall.Exit(keeper.Main()) // not os.Exit, where the race detector waits a second
	case os.Args[0] == userSide:
		if err := userMain(); err != nil {
			fmt.Println(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// boxed is this machine with its scripts in sandboxes, which see dirs too.
func boxed(t *testing.T, m host.Machine, dirs ...string) (host.Plan, runner.Runner) {
	t.Helper()
	m.Sandbox.Level = "bwrap"
	plan, err := m.Plan(1)
	if errors.Is(err, host.ErrLacking) && os.Getenv("CI") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	plan.Sandbox.Prefixes = append(plan.Sandbox.Prefixes, dirs...)
	kept, err := runner.OpenKept(runner.KeptConfig{
		Dir: t.TempDir(), Spool: t.TempDir(), Program: os.Args[0], Prefix: "k.cpu.",
		Box: &runner.BoxConfig{Sandbox: plan.Sandbox}, Park: plan.Runtimes["python"],
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	return plan, kept
}

// shown is a directory for what sandboxes show: not below /tmp, of which each
// has its own.
func shown(t *testing.T) string {
	t.Helper()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(here, ".shown-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// runs runs a script and returns what it wrote.
func runs(t *testing.T, r runner.Runner, command []string, script string, args ...string) string {
	t.Helper()
	return runsJob(t, r, runner.Job{
		Command: command, Args: args,
		Script: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(script)), nil },
	})
}

func runsJob(t *testing.T, r runner.Runner, j runner.Job) string {
	t.Helper()
	var out, errs bytes.Buffer
	j.Name, j.Stdout, j.Stderr, j.Timeout = "script", &out, &errs, time.Minute
	res := r.Run(t.Context(), j)
	if res.End != runner.Exited || res.Code != 0 || res.Err != nil {
		t.Errorf("%q: %+v: %s", j.Command, res, &errs)
	}
	if res.Forget != nil {
		if err := res.Forget(); err != nil {
			t.Error(err)
		}
	}
	return out.String()
}

// Every standard runtime works in the sandbox, wherever it is installed.
func TestRuntimesInTheSandbox(t *testing.T) {
	plan, box := boxed(t, host.Machine{})
	echo, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"python":     {"import json, ssl, sqlite3; print(json.dumps([1]))", "[1]\n"},
		"python-env": {"import json; print(json.dumps([1]))", "[1]\n"},
		"bash":       {"set -o pipefail; printf '%s\\n' \"${0##*/} $(ls /job/work)\"", "script script\n"},
		"node":       {"console.log(require('os').tmpdir() + JSON.stringify([1]))", "/job/tmp[1]\n"},
		"binary":     {string(echo), "an argument\n"},
	} {
		t.Run(name, func(t *testing.T) {
			command, ok := plan.Runtimes[name]
			if !ok || len(command) > 0 && !filepath.IsAbs(command[0]) {
				if os.Getenv("CI") == "1" {
					t.Fatalf("%s is not installed", name)
				}
				t.Skipf("%s is not installed", name)
			}
			var args []string
			if name == "binary" {
				args = []string{"an argument"}
			}
			if got := runs(t, box, command, c.script, args...); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A script sees the device files that it is lent, as those of GPUs are, and the
// next script does not.
func TestDeviceFilesInTheSandbox(t *testing.T) {
	node := ""
	for _, name := range []string{"/dev/kmsg", "/dev/fuse", "/dev/loop-control", "/dev/net/tun"} { // none is in an empty sandbox
		if info, err := os.Stat(name); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			node = name
			break
		}
	}
	if node == "" && os.Getenv("CI") != "1" {
		t.Skip("this machine has no device file to lend")
	}
	plan, box := boxed(t, host.Machine{})
	script := "import os, stat\nprint(os.path.exists('" + node + "') and stat.S_ISCHR(os.stat('" + node + "').st_mode))\n"
	for _, lent := range []bool{false, true, false} {
		j := runner.Job{
			Command: plan.Runtimes["python"],
			Script:  func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(script)), nil },
		}
		want := "False\n"
		if lent {
			j.Devices, want = []string{node}, "True\n"
		}
		if got := runsJob(t, box, j); got != want {
			t.Errorf("%s, lent %v: there %q", node, lent, got)
		}
	}
}

// An interpreter of machine.toml is run where it is, with what belongs to it.
func TestAnInterpreterOfTheMachine(t *testing.T) {
	python, err := runner.Python()
	if err != nil {
		t.Fatal(err)
	}
	venv := filepath.Join(shown(t), "venv")
	if out, err := exec.Command(python, "-m", "venv", "--without-pip", venv).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found, err := filepath.Glob(venv + "/lib/python*/site-packages")
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	if err := os.WriteFile(found[0]+"/ours.py", []byte("name = 'ours'"), 0o644); err != nil {
		t.Fatal(err)
	}
	plan, box := boxed(t, host.Machine{Runtimes: map[string][]string{"python-env": {venv + "/bin/python"}}})
	if got := runs(t, box, plan.Runtimes["python-env"], "import ours; print(ours.name)"); got != "ours\n" {
		t.Errorf("%q", got)
	}
}

// What a script names is installed outside the sandbox, seen in it, and cannot
// be changed from there.
func TestDependenciesInTheSandbox(t *testing.T) {
	if testing.Short() {
		t.Skip("a package index is asked; not for short tests")
	}
	path, err := uv.Find("../../.emulators/uv/bin/uv")
	if err != nil {
		path, err = uv.Find("")
	}
	if err != nil {
		if os.Getenv("CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("uv is missing: make emulators installs it")
	}
	python, err := runner.Python()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := uv.Open(uv.Config{Dir: filepath.Join(shown(t), "uv"), Path: path, Python: python})
	if err != nil {
		t.Fatal(err)
	}
	const script = `# /// script
# dependencies = ["six==1.16.0"]
# ///
import os, socket, six
try:
    open(six.__file__, 'a')
except OSError as e:
    print(six.__version__, type(e).__name__)
`
	command, done, err := cache.Prepare(t.Context(), strings.NewReader(script))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	_, box := boxed(t, host.Machine{}, cache.Dir())
	if got := runs(t, box, command, script); got != "1.16.0 OSError\n" && got != "1.16.0 PermissionError\n" {
		t.Errorf("%q", got)
	}
}
