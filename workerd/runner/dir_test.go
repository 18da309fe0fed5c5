package runner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"modulate/workerd/runner"
)

// Surroundings runs a script that tells all that it sees.
func (s suite) Surroundings(t *testing.T) {
	const script = `
import os, stat
root = os.path.dirname(os.getcwd())
print('here', [(f, oct(os.stat(f).st_mode & 0o777)) for f in sorted(os.listdir('.'))])
print('data', open('data.csv').read())
env = dict(os.environ)
output = env.pop('MODULATE_OUTPUT')
print('output', output == root + '/output', os.listdir(output), oct(os.stat(output).st_mode & 0o777))
print('home', env.pop('HOME') == env.pop('TMPDIR') == os.getcwd())
print('root', oct(os.stat(root).st_mode & 0o777))
for name in list(env):
    if name.startswith('LC_') or name == 'LANG': env.pop(name) # Python's own doing
print('env', env)
print('leads', os.getsid(0) == os.getpgid(0) == os.getpid())
print('blocking', [os.get_blocking(fd) for fd in (0, 1, 2)])
`
	r := s.run(t, job(python, script, func(j *runner.Job) {
		j.Files = []runner.File{{Name: "data.csv", Open: text("1,2")}}
		j.Env = []string{"A=1", "MODULATE_ID=x", "EMPTY=", "MODULATE_OUTPUT=/elsewhere"}
	}))
	good(t, r)
	want := `here [('data.csv', '0o600'), ('script', '0o600')]
data 1,2
output True [] 0o700
home True
root 0o700
env {'PATH': '` + runner.DefaultPath + `', 'A': '1', 'MODULATE_ID': 'x', 'EMPTY': ''}
leads True
blocking [True, True, True]
`
	if r.out != want {
		t.Errorf("got\n%swant\n%s", r.out, want)
	}
	r = s.run(t, job("env", "", func(j *runner.Job) {
		j.Command = []string{"env", "-u", "MODULATE_OUTPUT", "sh"}
		j.Script = text("env")
		j.Env = []string{"HOME=/h", "PATH=/bin:/usr/bin", "TMPDIR=/t"}
	}))
	good(t, r)
	lines := strings.Fields(r.out)
	slices.Sort(lines)
	for _, own := range []string{"HOME=/h", "PATH=/bin:/usr/bin", "TMPDIR=/t"} {
		if !slices.Contains(lines, own) {
			t.Errorf("%s is missing in %q", own, lines)
		}
	}
}

func (s suite) BadNames(t *testing.T) {
	file := func(name string) runner.File { return runner.File{Name: name, Open: text("x")} }
	long := strings.Repeat("x", 256)
	for _, name := range []string{"", ".", "..", "a/b", "/etc/passwd", "../x", "a\nb", "a\x00b", "a\x1bb", "\xff", long} {
		if r := s.run(t, job("sh", "", func(j *runner.Job) { j.Name = name })); r.End != runner.Failed || !strings.Contains(fmt.Sprint(r.Err), fmt.Sprintf("script %q", name)) {
			t.Errorf("script %q: %+v", name, r.Result)
		}
		if r := s.run(t, job("sh", "", func(j *runner.Job) { j.Files = []runner.File{file(name)} })); r.End != runner.Failed || !strings.Contains(fmt.Sprint(r.Err), fmt.Sprintf("input file %q", name)) {
			t.Errorf("file %q: %+v", name, r.Result)
		}
	}
	for _, files := range [][]runner.File{{file("script")}, {file("a"), file("a")}} {
		if r := s.run(t, job("sh", "", func(j *runner.Job) { j.Files = files })); r.End != runner.Failed || r.Err == nil {
			t.Errorf("clash: %+v", r.Result)
		}
	}
	for _, name := range []string{"-c", "a b", "ü.py", "...", "x" + long[:254]} {
		r := s.run(t, job("sh", "echo $0", func(j *runner.Job) { j.Name = name }))
		if good(t, r); strings.TrimPrefix(r.out, "./") != name+"\n" {
			t.Errorf("script %q says %q", name, r.out)
		}
	}
}

func (s suite) FetchFails(t *testing.T) {
	away := errors.New("the store is away")
	r := s.run(t, job("sh", "", func(j *runner.Job) { j.Script = func() (io.ReadCloser, error) { return nil, away } }))
	if r.End != runner.Failed || !errors.Is(r.Err, away) {
		t.Errorf("%+v", r.Result)
	}
	r = s.run(t, job("sh", "", func(j *runner.Job) {
		j.Files = []runner.File{{Name: "f", Open: j.Script}, {Name: "g", Open: failing(away)}}
	}))
	if r.End != runner.Failed || !errors.Is(r.Err, away) || !strings.Contains(r.Err.Error(), `input file "g"`) {
		t.Errorf("%+v", r.Result)
	}
}

// failing opens what breaks in the middle.
func failing(err error) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.Write([]byte("half")); w.CloseWithError(err) }()
		return r, nil
	}
}

// Collect collects from what scripts made of their output directory.
func (s suite) Collect(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	read := func(_ context.Context, root *os.Root) error {
		body, err := root.ReadFile("result.json")
		if err == nil && string(body) != "{}" {
			err = fmt.Errorf("read %q", body)
		}
		return err
	}
	for name, c := range map[string]struct {
		script  string
		collect func(context.Context, *os.Root) error
		want    string // in Err; "": none
	}{
		"result":       {"echo -n {} > $MODULATE_OUTPUT/result.json", read, ""},
		"remade":       {"rm -r $MODULATE_OUTPUT; mkdir $MODULATE_OUTPUT; echo -n {} > $MODULATE_OUTPUT/result.json", read, ""},
		"unreadable":   {"echo -n {} > $MODULATE_OUTPUT/result.json; chmod 0 $MODULATE_OUTPUT", read, ""},
		"exit code":    {"echo -n {} > $MODULATE_OUTPUT/result.json; exit 3", read, ""},
		"nothing":      {"", read, "no such file"},
		"removed":      {"rmdir $MODULATE_OUTPUT", read, "no such file"},
		"link":         {"ln -s " + secret + " $MODULATE_OUTPUT/result.json", read, "escapes"},
		"link up":      {"echo -n {} > ../result.json; ln -s ../result.json $MODULATE_OUTPUT/result.json", read, "escapes"},
		"is a link":    {"rmdir $MODULATE_OUTPUT; ln -s /etc $MODULATE_OUTPUT", read, "no longer a directory"},
		"is a file":    {"rmdir $MODULATE_OUTPUT; echo > $MODULATE_OUTPUT", read, "no longer a directory"},
		"error":        {"", func(context.Context, *os.Root) error { return broken }, "broken"},
		"panic":        {"", func(context.Context, *os.Root) error { panic("oh") }, "panic: oh"},
		"nil function": {"", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.run(t, job("bash", c.script, func(j *runner.Job) { j.Collect = c.collect }))
			if r.End != runner.Exited || (c.want == "") != (r.Err == nil) || !strings.Contains(fmt.Sprint(r.Err), c.want) {
				t.Errorf("%+v, want %q", r.Result, c.want)
			}
		})
	}
	if body, err := os.ReadFile(secret); string(body) != "secret" || err != nil {
		t.Errorf("the secret is %q, %v", body, err)
	}
}

// Removed checks that the job's directory goes whatever is in it, and that
// nothing beyond a link goes with it. run fails when anything is left.
func (s suite) Removed(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"closed directories": "mkdir -p a/b/c; touch a/b/c/d; chmod 0 a/b/c; chmod 0 a/b; chmod 0 a",
		"everything closed":  "mkdir a; touch a/b ../x; chmod 0 a $MODULATE_OUTPUT; chmod 0 .; chmod 0 ..",
		"links out":          "ln -s " + outside + " a; mkdir b; ln -s " + outside + " b/c; chmod 0 b",
		"one is a link":      "rmdir $MODULATE_OUTPUT; ln -s " + outside + " $MODULATE_OUTPUT",
		"odd files":          "mkfifo a; ln -s b b; touch 'c\nd' $'\\xff'",
		"deep":               "python3 -c 'import os\nfor i in range(5000): os.mkdir(\"d\"); os.chdir(\"d\")\nos.chmod(\".\", 0)'",
		"many":               "touch $(seq 1500); mkdir d; touch d/$(seq -s ' d/' 1500)",
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				loseRights(t)
				good(t, s.run(t, job("bash", script)))
			}()
			<-done
		})
	}
	if got := names(t, outside); !slices.Equal(got, []string{"keep"}) {
		t.Errorf("outside there is %q left", got)
	}
}

func TestDirectoryCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := runner.Exec{Dir: file}.Run(t.Context(), job("sh", ""))
	if r.End != runner.Failed || !strings.Contains(fmt.Sprint(r.Err), file) {
		t.Errorf("%+v", r)
	}
}

// TestSpares runs scripts that leave everything in disorder one after the
// other: each finds a place as the first one did, but for its name.
func TestSpares(t *testing.T) {
	spares := &runner.Spares{}
	exe := runner.Exec{Dir: t.TempDir(), Spares: spares}
	const look = "ls -A . $MODULATE_OUTPUT .. | sed s:/.*/:: ; stat -c %a . .. $MODULATE_OUTPUT; echo $MODULATE_OUTPUT >&2; "
	var first string
	seen := map[string]bool{}
	for _, mess := range []string{
		"", "touch a; mkdir -p b/c/d; touch b/c/d/e; chmod 0 b/c b", "echo x > $MODULATE_OUTPUT/f; chmod 0 $MODULATE_OUTPUT . ..", "touch ../x; mkdir ../y ../y/z",
		"rm -r $MODULATE_OUTPUT", "rm -r $MODULATE_OUTPUT; ln -s / $MODULATE_OUTPUT", "cd ..; rm -r work; mkfifo work", "mv ../output ../o; mv ../work ../w", "chmod 1777 .", "touch $(seq 500)",
		"rm -rf $PWD/..", "mv ../ ../../elsewhere; mkdir ../../elsewhere/x", "",
	} {
		var out, errs strings.Builder
		r := exe.Run(t.Context(), job("bash", look+mess, func(j *runner.Job) { j.Stdout, j.Stderr = &out, &errs }))
		if first == "" {
			first = out.String()
		}
		output, _, _ := strings.Cut(errs.String(), "\n")
		if r.End != runner.Exited || r.Err != nil || out.String() != first || seen[output] {
			t.Errorf("before %q: %+v, %s\n%s", mess, r, output, out.String())
		}
		seen[output] = true
	}
	if left := names(t, exe.Dir); len(left) > 2 { // the spare one, and what was moved elsewhere
		t.Errorf("left are %q", left)
	}
	if err := os.RemoveAll(filepath.Join(exe.Dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := spares.Close(); err != nil {
		t.Error(err)
	}
	if r := exe.Run(t.Context(), job("sh", "")); r.Err != nil {
		t.Error(r.Err)
	}
	if left := names(t, exe.Dir); len(left) != 0 {
		t.Errorf("closed, and left are %q", left)
	}
}
