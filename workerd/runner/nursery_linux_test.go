package runner_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
)

// forking opens a Kept whose scripts of a command are forked.
func forking(t *testing.T, command []string) *daemon {
	t.Helper()
	d := &daemon{dir: t.TempDir(), spool: t.TempDir()}
	k, err := runner.OpenKept(runner.KeptConfig{Dir: d.dir, Spool: d.spool, Program: os.Args[0], Prefix: "k.cpu.", Park: command})
	if err != nil {
		t.Fatal(err)
	}
	d.Kept = k
	return d
}

// nurseries are those of the keepers of a process, with their pidfds.
func nurseries(t *testing.T, of string) map[int]int {
	t.Helper()
	all := map[int]int{}
	tasks, _ := filepath.Glob("/proc/" + of + "/task/*/children")
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, pid := range strings.Fields(string(text)) {
			if words, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.Contains(words, []byte("\x00fork\x00")) {
				n, _ := strconv.Atoi(pid)
				all[n] = held(t, pid)
			}
		}
	}
	return all
}

// nursery is the only one.
func nursery(t *testing.T, of string) (pid, pidfd int) {
	t.Helper()
	all := nurseries(t, of)
	if len(all) != 1 {
		t.Fatalf("there are %d nurseries, want one", len(all))
	}
	for pid, pidfd = range all {
	}
	return pid, pidfd
}

// forked is the beginning of scripts that say whether they were forked.
const forked = `import os, sys
print("\0fork\0" in open("/proc/self/cmdline").read(), flush=True)
`

// A forked script is its keeper's child in its keeper's namespace, leads its
// session, has its arguments, environment, stdin and no other descriptor, and its
// use of the machine is its own. It is like one that is executed. (SigQ, of its
// status, counts the signals of all processes of its user.)
func TestForkedScript(t *testing.T) {
	command := job(python, "").Command
	const script = `
print(os.getppid(), os.getsid(0) == os.getpgid(0) == os.getpid(), sorted(os.environ), sys.argv, sys.flags, os.getcwd() == os.environ["HOME"])
print(os.getgroups(), os.getresuid(), os.getresgid(), os.umask(0), sys.stdin.read(), os.listdir("/proc/self/fd"), [l for l in open("/proc/self/status") if l.startswith(("Cap", "SigP", "SigB", "SigI", "SigC", "Shd", "NoN", "Sec"))])
print(open("/proc/self/limits").read(), open("/proc/self/oom_score_adj").read(), os.sched_getaffinity(0), open("/proc/self/cgroup").read(), os.access("/proc/self/environ", os.R_OK))
try: os.kill(-1, 0)
except ProcessLookupError: print("alone")
sum(range(3_000_000))
sys.exit(7)
`
	var said []string
	for _, park := range [][]string{command, nil} {
		d := forking(t, park)
		r := d.in(t, job(python, forked+script, func(j *runner.Job) { j.Args, j.Stdin = []string{"a", "b c"}, strings.NewReader("word") }))
		if r.End != runner.Exited || r.Code != 7 || r.Err != nil || r.errs != "" || r.CPU < time.Millisecond || r.CPU > r.Wall+time.Second || r.MaxRSS == 0 {
			t.Errorf("%+v, stderr %q", r.Result, r.errs)
		}
		was, rest, _ := strings.Cut(r.out, "\n")
		if want := map[bool]string{true: "True", false: "False"}[park != nil]; was != want {
			t.Errorf("it was forked: %s, want %s", was, want)
		}
		said = append(said, rest)
		d.end(t)
	}
	if said[0] != said[1] || !strings.HasSuffix(said[0], "\nalone\n") {
		t.Errorf("forked:\n%sexecuted:\n%s", said[0], said[1])
	}
}

// The end of a script is true whatever becomes of the interpreter that has
// forked it; and the next one is forked too.
func TestNurseryKilledMidScript(t *testing.T) {
	d := forking(t, job(python, "").Command)
	first, _ := nursery(t, "self")
	killed := false
	var out bytes.Buffer
	r := d.Run(t.Context(), job(python, forked+`sys.stdin.read(); print("on"); sys.exit(5)`, func(j *runner.Job) {
		stdin, w := io.Pipe()
		j.Stdin = stdin
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			if !killed {
				killed = true
				pid, fd := nursery(t, "self")
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
				awaitEnd(t, fd, 10*time.Second)
				w.Close()
			}
			return out.Write(p)
		})
	}))
	if r.End != runner.Exited || r.Code != 5 || r.Err != nil || out.String() != "True\non\n" {
		t.Errorf("%+v, stdout %q", r, out.String())
	}
	if r := d.in(t, job(python, forked)); r.out != "True\n" {
		t.Errorf("the next one: %+v, stdout %q", r.Result, r.out)
	}
	if now, _ := nursery(t, "self"); now == first {
		t.Error("the nursery is the one that was killed")
	}
	d.end(t)
}

// The process that waits for the next script goes before one of another kind,
// and is not missed where it has died.
func TestWaitingProcess(t *testing.T) {
	d := forking(t, job(python, "").Command)
	const alone = "kill -0 -1 2>/dev/null && exit 1; exit 0"
	for _, kill := range []bool{false, true, false} {
		if r := d.in(t, job(python, forked)); r.out != "True\n" || r.End != runner.Exited || r.Code != 0 {
			t.Errorf("%+v, stdout %q, stderr %q", r.Result, r.out, r.errs)
		}
		if !kill {
			good(t, d.in(t, job("bash", alone)))
			continue
		}
		waiting := waiting(t)
		if err := unix.PidfdSendSignal(waiting, unix.SIGKILL, nil, 0); err != nil {
			t.Fatal(err)
		}
		awaitEnd(t, waiting, 10*time.Second)
	}
	d.end(t)
}

// waiting is a pidfd of the process that waits in the only keeper, once it does.
func waiting(t *testing.T) int {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 10*time.Second; runtime.Gosched() {
		for _, keeper := range children(t) {
			text, _ := os.ReadFile("/proc/" + keeper + "/task/" + keeper + "/children")
			if words, _ := os.ReadFile("/proc/" + keeper + "/cmdline"); strings.HasPrefix(string(words), "modulate-keeper") && len(text) > 0 {
				return held(t, strings.Fields(string(text))[0])
			}
		}
	}
	t.Fatal("none waits")
	return 0
}

// Nothing is left of a nursery whose keeper has died, nor of one that is closed.
func TestNurseryEndsWithItsKeeper(t *testing.T) {
	d := forking(t, job(python, "").Command)
	_, fd := nursery(t, "self")
	r := ran{Result: d.Run(t.Context(), job(python, `import os, sys, time
print(os.readlink("/proc/self"), flush=True)
time.sleep(600)`, func(j *runner.Job) {
		j.Note = note("note")
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			return len(p), unix.Kill(parent(t, strings.TrimSpace(string(p))), unix.SIGKILL)
		})
	}))}
	if r.End != runner.Lost {
		t.Errorf("%+v", r.Result)
	}
	awaitEnd(t, fd, 10*time.Second)
	forget(t, r)
	good(t, d.in(t, job(python, "")))
	_, fd = nursery(t, "self")
	d.end(t)
	awaitEnd(t, fd, 0) // it was waited for
	if left := nurseries(t, "self"); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// A forked script whose daemon is killed goes on, is adopted and settled; then
// its nursery ends.
func TestForkedScriptIsAdopted(t *testing.T) {
	d := &daemon{dir: t.TempDir()}
	d.spool = filepath.Join(d.dir, "spool")
	worker, pid := another(t, d.dir, "noted forked")
	script := held(t, pid)
	_, fd := nursery(t, strconv.Itoa(worker.Process.Pid))
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
	next := newDaemon(t, d)
	orphans, err := next.Adopt()
	if err != nil || len(orphans) != 1 {
		t.Fatalf("%d adopted: %v", len(orphans), err)
	}
	now := make(chan struct{})
	got := &signalWriter{f: func() { close(now) }}
	r := ran{Result: orphans[0].Resume(t.Context(), runner.Job{Stdout: got, Now: now})}
	if r.End != runner.Killed || got.String() != pid+"\n" {
		t.Errorf("%+v, stdout %q", r.Result, got.String())
	}
	awaitEnd(t, script, time.Second)
	forget(t, r)
	awaitEnd(t, fd, 10*time.Second)
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if left := names(t, d.spool); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

// installing returns the command of an interpreter which is there once put puts
// it there, each time as another file, whose inode put returns.
func installing(t *testing.T) (command []string, put func() uint64) {
	t.Helper()
	real, err := filepath.EvalSymlinks(job(python, "").Command[0])
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(real))
	return []string{path, "-I", "-S"}, func() uint64 {
		t.Helper()
		var stat unix.Stat_t
		if err := os.WriteFile(path+".new", body, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Ino
	}
}

// An interpreter that was away when its keeper was started forks once it is there.
func TestInterpreterThatWasAway(t *testing.T) {
	command, put := installing(t)
	d := forking(t, command)
	good(t, d.in(t, job("sh", "exit 0")))
	put()
	for range 2 {
		if r := d.in(t, job("", forked, func(j *runner.Job) { j.Command = command })); r.out != "True\n" {
			t.Errorf("%+v, stdout %q, stderr %q", r.Result, r.out, r.errs)
		}
	}
	d.end(t)
}

// A script runs in the interpreter that its command names as it starts.
func TestReplacedInterpreterIsNoticed(t *testing.T) {
	command, put := installing(t)
	want := put()
	d := forking(t, command)
	for range 3 {
		r := d.in(t, job("", forked+`print(os.stat("/proc/self/exe").st_ino)`, func(j *runner.Job) { j.Command = command }))
		if r.out != fmt.Sprintf("True\n%d\n", want) {
			t.Errorf("%+v, stdout %q, stderr %q, want inode %d", r.Result, r.out, r.errs, want)
		}
		want = put()
	}
	d.end(t)
}

// Where there is no nursery, or it does not answer, scripts are executed; and
// what it forks too late runs nothing.
func TestWithoutANursery(t *testing.T) {
	for _, park := range [][]string{{"python3"}, {"/bin/sh"}, {"/no/such/python3", "-S"}, append(slices.Clone(job(python, "").Command), "-B")} {
		d := forking(t, park)
		if r := d.in(t, job(python, forked)); r.out != "False\n" || r.End != runner.Exited || r.Code != 0 || r.Err != nil {
			t.Errorf("%q: %+v, stdout %q", park, r.Result, r.out)
		}
		d.end(t)
	}
	if testing.Short() {
		t.Skip("one that does not answer is waited for; not for short tests")
	}
	d := forking(t, job(python, "").Command)
	pid, fd := nursery(t, "self")
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	runs := filepath.Join(t.TempDir(), "runs")
	script := forked + `open("` + runs + `", "a").write("x")`
	r := d.in(t, job(python, script, func(j *runner.Job) {
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			if string(p) != "False\n" {
				t.Errorf("stdout %q", p)
			}
			err := unix.Kill(pid, unix.SIGCONT)
			awaitEnd(t, fd, 10*time.Second)
			return len(p), err
		})
	}))
	if body, _ := os.ReadFile(runs); r.End != runner.Exited || r.Code != 0 || r.Err != nil || string(body) != "x" {
		t.Errorf("%+v, runs %q", r.Result, body)
	}
	if r := d.in(t, job(python, forked)); r.out != "True\n" {
		t.Errorf("the next one: %+v, stdout %q", r.Result, r.out)
	}
	d.end(t)
}
