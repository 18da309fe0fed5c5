package runner_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"modulate/workerd/keeper"
	"modulate/workerd/runner"
)

// suites are the kinds of runners of this system.
var suites = map[string]suite{"exec": execSuite, "kept": {openKept}, "forked": {openForked}}

func openKept(dir, spool string) (runner.Runner, func() error) { return open(dir, spool, nil) }

// openForked opens a Kept whose Python scripts are forked.
func openForked(dir, spool string) (runner.Runner, func() error) {
	return open(dir, spool, job(python, "").Command)
}

func open(dir, spool string, park []string) (runner.Runner, func() error) {
	k, err := runner.OpenKept(runner.KeptConfig{Dir: dir, Spool: spool, Program: os.Args[0], Prefix: "k.cpu.", Park: park})
	if err != nil {
		panic(err)
	}
	return k, k.Close
}

// keep is this binary's life as a keeper.
func keep() {
	if keeper.Called(os.Args) {
		syscall.Exit(keeper.Main()) // not os.Exit, where the race detector waits a second
	}
}

// tests are those of the suite.
func (s suite) tests() map[string]func(*testing.T) {
	all := s.portable()
	maps.Copy(all, map[string]func(*testing.T){
		"Descriptors": s.Descriptors, "NothingLives": s.NothingLives, "HiddenChild": s.HiddenChild,
		"Hopper": s.Hopper, "ZombieLeader": s.ZombieLeader, "WorkerKilled": s.WorkerKilled,
	})
	return all
}

// offspring starts every kind of process that may outlive a script and prints
// their numbers, then "up".
const offspring = `
import os, sys, time
def me(): return os.readlink('/proc/self').encode() + b'\n' # for the host
def child(*steps):
    r, w = os.pipe()
    if os.fork() == 0:
        for step in steps: step()
        os.write(w, me())
        os.close(w)
        while True: time.sleep(600)
    os.close(w)
    os.write(1, os.read(r, 100))
    os.close(r)
def again():
    if os.fork(): os._exit(0)
def quiet():
    null = os.open('/dev/null', os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(null, fd)
    os.chdir('/')
def deaf():
    import signal
    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)
child()
child(lambda: os.setpgid(0, 0))
child(os.setsid)
child(os.setsid, again, quiet)
child(again, os.setsid, again, os.setsid, deaf)
child(deaf, again, os.setsid, lambda: os.write(1, me()), lambda: os.execvpe('sleep', ['sleep', '600'], os.environ))
`

// NothingLives checks the tree however the script ends.
func (s suite) NothingLives(t *testing.T) {
	for name, c := range map[string]struct {
		end  string
		edit func(*runner.Job)
		want runner.End
	}{
		"end":          {"", nil, runner.Exited},
		"long run":     {"time.sleep(1.1)", nil, runner.Exited}, // looks through all of /proc
		"exit code":    {"os._exit(3)", nil, runner.Exited},
		"signal":       {"os.kill(os.getpid(), 9)", nil, runner.Signalled},
		"timeout":      {"time.sleep(600)", func(j *runner.Job) { j.Timeout = started }, runner.TimedOut},
		"group killed": {"os.kill(0, 9)", nil, runner.Signalled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := job(python, offspring+c.end)
			if c.edit != nil {
				c.edit(&j)
			}
			r := s.run(t, j)
			if r.End != c.want || r.Err != nil {
				t.Errorf("%+v\nstderr %s", r.Result, r.errs)
			}
			if c.want != runner.TimedOut {
				allDead(t, r.out, 6)
			} else { // how many it came to is the machine's affair
				allDead(t, r.out, strings.Count(r.out, "\n"))
			}
		})
	}
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		out := &signalWriter{f: func() {}}
		lines := 0
		r := s.runIn(t, ctx, job(python, offspring+"time.sleep(600)", func(j *runner.Job) {
			j.Stdout = writerFunc(func(p []byte) (int, error) {
				if lines += strings.Count(string(p), "\n"); lines == 6 {
					cancel(errors.New("cancelled"))
				}
				return out.Write(p)
			})
		}))
		if r.End != runner.Killed || r.Err != nil {
			t.Errorf("%+v\nstderr %s", r.Result, r.errs)
		}
		allDead(t, out.String(), 6)
	})
}

// allDead fails unless text is the numbers of want processes that are dead.
func allDead(t *testing.T, text string, want int) {
	t.Helper()
	pids := strings.Fields(text)
	if len(pids) != want {
		t.Errorf("%d processes, want %d: %q", len(pids), want, text)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %s lives", pid)
		}
	}
}

// alive reports whether there is such a process, a zombie apart.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// A child of a daemon is found by its parent, though it hides its own session
// and environment.
func (s suite) HiddenChild(t *testing.T) {
	r := s.run(t, job("sh", `mkfifo up
setsid sh -c 'read -r pid rest </proc/self/stat; echo $pid
	env -i setsid sh -c "read -r pid rest </proc/self/stat; echo \$pid; echo >up; exec sleep 600" & sleep 600' & read line <up`))
	good(t, r)
	allDead(t, r.out, 2)
}

// A process that lives on by forking and ending itself is caught.
func (s suite) Hopper(t *testing.T) {
	const script = `
import os, time
if os.fork() == 0:
    os.setsid()
    end = time.time() + 60
    while time.time() < end:
        if os.fork(): os._exit(0)
        os.setsid()
time.sleep(0.05)`
	r := s.run(t, job(python, script))
	good(t, r)
	if r.took > 8*time.Second {
		t.Errorf("took %v", r.took)
	}
}

// A process whose first thread has ended is a zombie by its state, and lives.
func (s suite) ZombieLeader(t *testing.T) {
	const script = `
import ctypes, os, threading, time
if os.fork() == 0:
    os.setpgid(0, 0)
    threading.Thread(target=time.sleep, args=(600,)).start()
    os.write(1, os.readlink('/proc/self').encode() + b'\n')
    ctypes.CDLL(None).pthread_exit(None)
time.sleep(0.3)`
	r := s.run(t, job(python, "import sys; sys.path += [p + '/lib-dynload' for p in sys.path]\n"+script))
	good(t, r)
	pid := strings.TrimSpace(r.out)
	if _, err := os.Stat("/proc/" + pid + "/task"); err != nil {
		return
	}
	tasks, err := os.ReadDir("/proc/" + pid + "/task")
	if err == nil && len(tasks) > 1 {
		t.Errorf("process %s has %d threads", pid, len(tasks))
	}
}

// A worker that is killed takes its script along.
func (s suite) WorkerKilled(t *testing.T) {
	worker, pid := another(t, t.TempDir(), kindOf(t))
	fd := held(t, pid)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, fd, 10*time.Second)
	worker.Wait()
}

// kindOf is the kind of runner that a test of the suite runs over.
func kindOf(t *testing.T) string { return strings.Split(t.Name(), "/")[1] }
