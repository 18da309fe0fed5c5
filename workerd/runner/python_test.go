package runner_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"modulate/workerd/runner"
)

// shims makes PATH a directory of these scripts and nothing else.
func shims(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

func TestPython(t *testing.T) {
	real, err := runner.Python()
	if err != nil {
		t.Fatal(err)
	}
	r := execSuite.run(t, job("", "import sys; print(sys.executable)", func(j *runner.Job) { j.Command = []string{real, "-I", "-S"} }))
	if good(t, r); r.out != real+"\n" {
		t.Errorf("%s says that it is %q", real, r.out)
	}
	shims(t, map[string]string{"python3": `exec ` + real + ` "$@"`})
	if got, err := runner.Python(); got != real || err != nil {
		t.Errorf("behind a shim: %q, %v, want %q", got, err, real)
	}
	for script, want := range map[string]string{
		"echo broken >&2; exit 3": "broken",
		"echo relative":           `"relative", which cannot be run`,
		"echo /no/such/python":    `"/no/such/python", which cannot be run`,
	} {
		dir := shims(t, map[string]string{"python3": script})
		if got, err := runner.Python(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %q, %v", script, got, err)
		}
	}
	shims(t, nil)
	if _, err := runner.Python(); !errors.Is(err, runner.ErrNotInstalled) || !strings.Contains(err.Error(), "install") {
		t.Errorf("without one: %v", err)
	}
}

func TestRuntimes(t *testing.T) {
	real, err := runner.Python()
	if err != nil {
		t.Fatal(err)
	}
	dir := shims(t, map[string]string{"python3": `exec ` + real + ` "$@"`, "bash": "", "ruby": ""})
	got := runner.Runtimes(map[string][]string{
		"ruby": {"ruby", "-w"}, "deno": {"deno", "run"}, "node": {"/opt/node", "--x"}, "python-env": {"/venv/bin/python"},
	})
	want := map[string][]string{
		"python": {real, "-I", "-S"}, "python-env": {"/venv/bin/python"}, "bash": {dir + "/bash"}, "node": {"/opt/node", "--x"}, "binary": {},
		"ruby": {dir + "/ruby", "-w"}, "deno": {"deno", "run"},
	}
	for name := range want {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d runtimes, want %d", len(got), len(want))
	}
	r := execSuite.run(t, job("", "", func(j *runner.Job) { j.Command = got["deno"] }))
	if r.End != runner.Failed || !errors.Is(r.Err, runner.ErrNotInstalled) || !strings.Contains(r.Err.Error(), "deno") {
		t.Errorf("%+v", r.Result)
	}
	shims(t, nil)
	if got := runner.Runtimes(nil)["python"]; !slices.Equal(got, []string{"python3", "-I", "-S"}) {
		t.Errorf("without Python: %q", got)
	}
}

// python sees neither the files beside it nor site-packages; python-env sees
// the files beside it; neither is led astray by its environment.
func TestPythonPaths(t *testing.T) {
	runtimes := runner.Runtimes(nil)
	for name, want := range map[string]string{"python": "alone\n", "python-env": "helped\n"} {
		r := execSuite.run(t, job("", `
try:
    import helper
    print('helped')
except ImportError:
    print('alone')
import sys
assert '/evil' not in sys.path and sys.flags.no_user_site and sys.flags.ignore_environment`, func(j *runner.Job) {
			j.Command = runtimes[name]
			j.Files = []runner.File{{Name: "helper.py", Open: text("")}}
			j.Env = []string{"PYTHONPATH=/evil"}
		}))
		if good(t, r); r.out != want {
			t.Errorf("%s: %q, want %q", name, r.out, want)
		}
	}
}
