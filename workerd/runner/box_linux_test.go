package runner_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// boxed opens a Kept whose scripts run in sandboxes.
func boxed(t testing.TB, before *daemon, limits sandbox.Limits, edit ...func(*runner.KeptConfig)) *daemon {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("root alone gives scripts uids and groups")
	}
	python, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: t.TempDir(), spool: t.TempDir()}
	if before != nil {
		d.dir, d.spool = before.dir, before.spool
	}
	cfg := runner.KeptConfig{
		Dir: d.dir, Spool: d.spool, Program: os.Args[0], Prefix: "k.cpu.",
		Box: &runner.BoxConfig{
			Sandbox: sandbox.Config{Level: sandbox.Bwrap, Prefixes: []string{filepath.Dir(filepath.Dir(python))}, Limits: limits},
			Cgroups: true,
		},
		Park: []string{python, "-I", "-S"},
	}
	for _, e := range edit {
		e(&cfg)
	}
	d.Kept, err = runner.OpenKept(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ample is room for any script.
var ample = sandbox.Limits{Memory: 512 << 20, CPU: 2, PIDs: 200, Scratch: 64 << 20}

// in runs a job in a sandbox of d.
func (d *daemon) in(t *testing.T, j runner.Job) (r ran) {
	t.Helper()
	var out, errs bytes.Buffer
	if j.Stdout == nil {
		j.Stdout = &out
	}
	j.Stderr = &errs
	r.Result = d.Run(t.Context(), j)
	r.out, r.errs = out.String(), errs.String()
	return r
}

// A script of the parked kind, and of every other, sees its sandbox: its files,
// its environment, its directories, no host.
func TestBox(t *testing.T) {
	d := boxed(t, nil, ample)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	edit := func(j *runner.Job) {
		j.Args, j.Env, j.Stdin = []string{"a b", ""}, []string{"A=1"}, strings.NewReader("in")
		j.Files = []runner.File{{Name: "data.csv", Open: text("1,2")}}
		j.Collect = func(_ context.Context, root *os.Root) error {
			body, err := root.ReadFile("result.json")
			if string(body) != "{}" {
				err = errors.Join(err, errors.New("collected "+string(body)))
			}
			return err
		}
	}
	const want = "script a b||in|1,2|1|/job/work|/job/output|no secret\n"
	for range 3 { // one after the other: each has a sandbox of its own
		r := d.in(t, job(python, `
import os, sys
print(sys.argv[0] if '/' not in sys.argv[0] else os.path.basename(sys.argv[0]), end=' ')
print(*sys.argv[1:], sys.stdin.read(), open('data.csv').read(), os.environ['A'], os.getcwd(), os.environ['MODULATE_OUTPUT'],
    'a secret' if os.path.exists('`+secret+`') else 'no secret', sep='|')
open('left behind', 'x').close()
open(os.environ['MODULATE_OUTPUT'] + '/result.json', 'w').write('{}')`, edit))
		good(t, r)
		if r.out != want {
			t.Errorf("python: %q, want %q", r.out, want)
		}
		r = d.in(t, job("/bin/sh", `
[ -e `+secret+` ] && secret='a secret' || secret='no secret'
echo "script $1|$2|$(cat)|$(cat data.csv)|$A|$PWD|$MODULATE_OUTPUT|$secret"
echo -n {} >$MODULATE_OUTPUT/result.json; : >'left behind'`, edit))
		good(t, r)
		if r.out != want {
			t.Errorf("sh: %q, want %q", r.out, want)
		}
	}
	r := d.in(t, job("", "#!/bin/sh\necho $0; exit 4"))
	if r.End != runner.Exited || r.Code != 4 || r.out != "/job/work/script\n" {
		t.Errorf("binary: %+v, stdout %q, stderr %q", r.Result, r.out, r.errs)
	}
	r = d.in(t, job("", "echo no #! line\n"))
	if r.End != runner.Exited || r.Code != runner.CodeNotExecutable || !errors.Is(r.Err, runner.ErrNotExecutable) {
		t.Errorf("no binary: %+v", r.Result)
	}
	r = d.in(t, job(python, "import os; os.kill(os.getpid(), 11)"))
	if r.End != runner.Signalled || r.Signal != 11 {
		t.Errorf("%+v", r.Result)
	}
	r = d.in(t, job("/bin/bash", "kill -SEGV $$"))
	if r.End != runner.Signalled || r.Signal != 11 {
		t.Errorf("%+v", r.Result)
	}
	d.end(t)
}

// What keeps sandboxes from being made is told when a worker begins, not by each
// script.
func TestABoxThatCannotBeIsToldAtOnce(t *testing.T) {
	boxed(t, nil, ample).end(t) // or it skips
	spool := t.TempDir()
	k, err := runner.OpenKept(runner.KeptConfig{Dir: t.TempDir(), Spool: spool, Program: os.Args[0], Prefix: "k.cpu.", Box: &runner.BoxConfig{
		Sandbox: sandbox.Config{Level: sandbox.Bwrap, Limits: ample, Mounts: []sandbox.Mount{{Source: spool + "/gone", Target: "/sets"}}},
	}})
	if err == nil {
		t.Fatal("it was opened", k.Close())
	}
	for _, word := range []string{"scripts cannot be run in sandboxes", "showing /sets", "gone: no such file"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// What the host replaces the next sandbox that is made shows: what they have in
// common is mounted once, not for ever.
func TestABoxShowsWhatTheHostHasNow(t *testing.T) {
	dir := t.TempDir()
	sets := filepath.Join(dir, "sets")
	replace := func(version string) {
		t.Helper()
		of := filepath.Join(dir, version)
		for _, err := range []error{os.Mkdir(of, 0o755), os.WriteFile(of+"/version", []byte(version), 0o644), os.Symlink(of, of+".link"), os.Rename(of+".link", sets)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	replace("1")
	d := boxed(t, nil, ample, func(cfg *runner.KeptConfig) {
		cfg.Box.Sandbox.Mounts = []sandbox.Mount{{Source: sets, Target: "/sets"}}
	})
	ask := func() string {
		r := d.in(t, job(python, "print(open('/sets/version').read())"))
		good(t, r)
		return strings.TrimSpace(r.out)
	}
	if got := ask(); got != "1" {
		t.Errorf("version %s, want 1", got)
	}
	replace("2")
	ask() // in the sandbox that was made ahead
	if got := ask(); got != "2" {
		t.Errorf("version %s, want 2", got)
	}
	d.end(t)
}

// What a script leaves running ends with it, and one that uses up its memory
// is known by that.
func TestBoxEnds(t *testing.T) {
	d := boxed(t, nil, sandbox.Limits{Memory: 64 << 20, CPU: 2, PIDs: 50, Scratch: 16 << 20})
	r := d.in(t, job(python, offspring))
	good(t, r)
	r = d.in(t, job(python, "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"))
	if r.End != runner.Signalled || r.Signal != 9 || !r.OOM {
		t.Errorf("%+v", r.Result)
	}
	good(t, d.in(t, job(python, "pass")))
	r = d.in(t, job(python, "import time; time.sleep(600)", func(j *runner.Job) { j.Timeout = 300 * time.Millisecond }))
	if r.End != runner.TimedOut {
		t.Errorf("%+v", r.Result)
	}
	d.end(t)
}

// leaveBoxed runs a script in a sandbox, which waits for the end of its stdin,
// and leaves it.
func (d *daemon) leaveBoxed(t *testing.T) {
	t.Helper()
	left := make(chan struct{})
	stdin, w := io.Pipe() // says nothing
	defer w.Close()
	r := d.Run(t.Context(), job(python, `
import os, socket, sys
print('first', flush=True)
sys.stdin.read()
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['MODULATE_SOCKET'])
s.settimeout(60)
s.sendall(b'hello')
s.shutdown(socket.SHUT_WR)
s.recv(1)
print('last')
open(os.environ['MODULATE_OUTPUT'] + '/result.json', 'w').write('{}')
sys.exit(3)`, func(j *runner.Job) {
		j.Note, j.Leave, j.Stdin = note("note"), left, stdin
		j.Stdout = writerFunc(func(p []byte) (int, error) { close(left); return len(p), nil })
		j.Serve = func(net.Listener, string) {}
	}))
	if r.End != runner.Left {
		t.Fatalf("%+v", r)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// adoptBoxed adopts what leaveBoxed has left, hears it at its socket, and waits
// for its end.
func (d *daemon) adoptBoxed(t *testing.T, about func(adopt func())) (r ran, collected string) {
	t.Helper()
	var orphans []runner.Orphan
	var err error
	about(func() { orphans, err = d.Adopt() })
	if err != nil || len(orphans) != 1 {
		t.Fatalf("%d adopted: %v", len(orphans), err)
	}
	var out bytes.Buffer
	var socket net.Listener
	said := make(chan string, 1)
	r.Result = orphans[0].Resume(t.Context(), runner.Job{
		Stdout: &out, Stdin: strings.NewReader(""),
		Serve: func(l net.Listener, _ string) {
			socket = l
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				body, _ := io.ReadAll(c)
				said <- string(body)
			}()
		},
		Collect: func(_ context.Context, root *os.Root) error {
			body, err := root.ReadFile("result.json")
			collected = string(body)
			return err
		},
	})
	select {
	case got := <-said: // before the script's end, which waits for it
		if got != "hello" {
			t.Errorf("through its socket it said %q", got)
		}
	default:
		t.Error("it was not heard at its socket")
	}
	if err := socket.Close(); err != nil {
		t.Error(err)
	}
	r.out = out.String()
	return r, collected
}

// endAdopter ends a daemon that has adopted. The keeper that was left is this
// process's child all the same; it ends as nobody is connected.
func (d *daemon) endAdopter(t *testing.T) {
	t.Helper()
	d.end(t)
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != syscall.EINTR && err != nil {
			return
		}
	}
}

// Nobody's outputs do not stop a script in a sandbox either.
func TestBoxFloodUnread(t *testing.T) {
	d := boxed(t, nil, ample)
	good(t, ran{Result: d.Run(t.Context(), floodUnread())})
	d.end(t)
}

// A script in a sandbox goes on without its daemon; what it left is collected
// by the next.
func TestBoxIsAdopted(t *testing.T) {
	before := names(t, "/proc/self/fd")
	d := boxed(t, nil, ample)
	d.leaveBoxed(t)
	if after := names(t, "/proc/self/fd"); len(after) > len(before) {
		t.Errorf("it had descriptors %q, and has %q", before, after)
	}
	next := boxed(t, d, ample)
	r, collected := next.adoptBoxed(t, func(adopt func()) { adopt() })
	if r.End != runner.Exited || r.Code != 3 || r.out != "first\nlast\n" || collected != "{}" {
		t.Errorf("%+v, stdout %q, collected %q", r.Result, r.out, collected)
	}
	forget(t, r)
	if p := next.Pool(); p.Keepers != 1 {
		t.Errorf("%d keepers, want that of the new daemon alone: the other has the sandboxes of the old one's configuration", p.Keepers)
	}
	good(t, next.in(t, job(python, "pass")))
	next.endAdopter(t)
}

// A daemon that has no room for the directories of what it adopts lets the
// script go on, and says that it could not collect.
func TestBoxIsAdoptedWithTooManyFilesOpen(t *testing.T) {
	d := boxed(t, nil, ample)
	d.leaveBoxed(t)
	next := boxed(t, d, ample)
	next.awaitSandboxes(t) // whose directories take descriptors too
	r, collected := next.adoptBoxed(t, func(adopt func()) {
		// Adopting takes five: three files of the folder, the folder and the
		// socket. One is free again when the directories come.
		defer leaveFree(t, 5)()
		adopt()
	})
	if r.End != runner.Exited || r.Code != 3 || r.out != "first\nlast\n" || collected != "" {
		t.Errorf("%+v, stdout %q, collected %q", r.Result, r.out, collected)
	}
	if r.Err == nil || !strings.Contains(r.Err.Error(), "too many files open") {
		t.Errorf("it says %v", r.Err)
	}
	forget(t, r)
	next.endAdopter(t)
}

// leaveFree has this process find no more than n descriptors, until it is
// undone.
func leaveFree(t *testing.T, n int) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	var taken []int
	last := -1
	// The least that is free is opened: none is, once all others are below the
	// last. The directory that is read is the next.
	beyond := func(name string) bool {
		fd, err := strconv.Atoi(name)
		return err != nil || fd > last+1
	}
	for last < 0 || slices.ContainsFunc(names(t, "/proc/self/fd"), beyond) {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		taken, last = append(taken, fd), fd
	}
	less := unix.Rlimit{Cur: uint64(last + 1 + n), Max: before.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &less, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			t.Error(err)
		}
		for _, fd := range taken {
			unix.Close(fd)
		}
	}
}

// Where no interpreter can wait, every script has a cold start.
func TestBoxWithoutPython(t *testing.T) {
	d := boxed(t, nil, ample, func(cfg *runner.KeptConfig) { cfg.Park = []string{"python3"} })
	for _, command := range []string{"/bin/sh", python} {
		good(t, d.in(t, job(command, "")))
	}
	if r := d.Pool(); r.Cold != 2 {
		t.Errorf("%+v, want two cold starts", r)
	}
	d.end(t)
}

// awaitSandboxes waits until one is made ahead in every idle keeper.
func (d *daemon) awaitSandboxes(t *testing.T) {
	t.Helper()
	late := time.After(time.Minute)
	for tick := time.Tick(time.Millisecond); ; {
		if p := d.Pool(); p.Sandboxes > 0 && p.Sandboxes == p.Keepers {
			return
		}
		select {
		case <-tick:
		case <-late:
			t.Fatal("none is ever ready")
		}
	}
}

// What is ready is told, and each script for which it was not is counted once.
func TestPool(t *testing.T) {
	d := boxed(t, nil, ample)
	cold := uint64(0)
	for _, step := range []struct {
		command string
		ready   bool
	}{{python, true}, {"/bin/sh", false}, {python, true}} {
		d.awaitSandboxes(t)
		good(t, d.in(t, job(step.command, "")))
		if !step.ready {
			cold++
		}
		if r := d.Pool(); r.Cold != cold || r.Keepers != 1 {
			t.Errorf("after %s: %+v, want %d cold starts and a keeper", step.command, r, cold)
		}
	}
	d.end(t)
}
