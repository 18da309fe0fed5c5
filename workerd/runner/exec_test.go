package runner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"modulate/workerd/runner"
)

// TestMain runs this binary as a keeper, or as a worker of its own, where a
// test asks for one that it can kill.
func TestMain(m *testing.M) {
	keep()
	if dir := os.Getenv("RUNNER_WORKER"); dir != "" {
		kind, noted := strings.CutPrefix(os.Getenv("RUNNER_KIND"), "noted ")
		exe, _ := suites[kind].open(dir, filepath.Join(dir, "spool"))
		command, script := "sh", me+"me; exec sleep 600"
		if kind == "forked" {
			command, script = python, "import os, time\nprint(os.readlink('/proc/self'), flush=True)\ntime.sleep(600)"
		}
		exe.Run(context.Background(), job(command, script, func(j *runner.Job) {
			if j.Stdout = os.Stdout; noted {
				j.Note = note("note")
			}
		}))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// A suite is run over each kind of runner. open makes one that makes its jobs'
// directories in dir and whatever else it needs in spool; end ends it.
type suite struct {
	open func(dir, spool string) (r runner.Runner, end func() error)
}

var execSuite = suite{func(dir, _ string) (runner.Runner, func() error) {
	return runner.Exec{Dir: dir}, func() error { return nil }
}}

// TestSuite runs every test of the suite over every kind of runner.
func TestSuite(t *testing.T) {
	for kind, s := range suites {
		t.Run(kind, func(t *testing.T) {
			for name, test := range s.tests() {
				t.Run(name, test)
			}
		})
	}
}

// portable are the tests for every system.
func (s suite) portable() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"ExactBytes": s.ExactBytes, "Ends": s.Ends, "Timeout": s.Timeout, "GraceThenKill": s.GraceThenKill,
		"StoppedScript": s.StoppedScript, "Cancel": s.Cancel, "NowDuringGrace": s.NowDuringGrace, "Now": s.Now,
		"CancelBeforeStart": s.CancelBeforeStart, "Usage": s.Usage, "NotInstalled": s.NotInstalled, "NotExecutable": s.NotExecutable,
		"ThousandRuns": s.ThousandRuns, "Surroundings": s.Surroundings, "BadNames": s.BadNames, "FetchFails": s.FetchFails,
		"Collect": s.Collect, "Removed": s.Removed, "Flood": s.Flood, "FloodUnread": s.FloodUnread, "WriterFails": s.WriterFails, "Stdin": s.Stdin,
		"StdinFails": s.StdinFails, "StdinHangs": s.StdinHangs,
	}
}

// me defines a shell function that prints the number which the shell has for
// the host, whatever its own pid namespace says.
const me = "me() { read -r pid rest </proc/self/stat; echo $pid; }; "

// note is a Job's.
func note(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

// python stands for the standard Python runtime in the commands of [job].
const python = "python"

// interpreter resolves the real one once: a shim in PATH has its own
// environment, processes and delay.
var interpreter = sync.OnceValues(runner.Python)

// job is a script for command, with its words parted by spaces.
func job(command, script string, edit ...func(*runner.Job)) runner.Job {
	words := strings.Fields(command)
	if command == python {
		real, err := interpreter()
		if err != nil {
			panic(err)
		}
		words = []string{real, "-I", "-S"}
	}
	j := runner.Job{
		Command: words,
		Name:    "script",
		Script:  text(script),
		Grace:   10 * time.Second,
	}
	for _, e := range edit {
		e(&j)
	}
	return j
}

func text(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

// ran is what a run came to.
type ran struct {
	runner.Result
	out, errs string
	took      time.Duration
}

// run runs a job in a directory of its own, which must be empty again.
func (s suite) run(t *testing.T, j runner.Job) ran {
	t.Helper()
	return s.runIn(t, t.Context(), j)
}

func (s suite) runIn(t *testing.T, ctx context.Context, j runner.Job) (r ran) {
	t.Helper()
	dir, spool := t.TempDir(), t.TempDir()
	exe, end := s.open(dir, spool)
	var out, errs bytes.Buffer
	if j.Stdout == nil {
		j.Stdout = &out
	}
	if j.Stderr == nil {
		j.Stderr = &errs
	}
	begin := time.Now()
	r.Result = exe.Run(ctx, j)
	r.took, r.out, r.errs = time.Since(begin), out.String(), errs.String()
	if err := end(); err != nil {
		t.Error(err)
	}
	if left := append(names(t, dir), names(t, spool)...); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	return r
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// good fails unless the script ended with exit code 0.
func good(t *testing.T, r ran) {
	t.Helper()
	if r.End != runner.Exited || r.Code != 0 || r.Err != nil {
		t.Fatalf("%+v\nstdout %q\nstderr %q", r.Result, r.out, r.errs)
	}
}

func (s suite) ExactBytes(t *testing.T) {
	const script = `
import sys
data = bytes(range(256)) * 1000
sys.stdout.buffer.write(data)
sys.stderr.buffer.write(data[::-1] + sys.stdin.buffer.read())
print(sys.argv[1:], end='')`
	stdin := "\x00\xff\r\n"
	r := s.run(t, job(python, script, func(j *runner.Job) {
		j.Args = []string{"a b", "", "-c", "ü"}
		j.Stdin = strings.NewReader(stdin)
	}))
	good(t, r)
	var data []byte
	for range 1000 {
		for b := range 256 {
			data = append(data, byte(b))
		}
	}
	if want := string(data) + "['a b', '', '-c', 'ü']"; r.out != want {
		t.Errorf("stdout is %d bytes, want %d", len(r.out), len(want))
	}
	slices.Reverse(data)
	if want := string(data) + stdin; r.errs != want {
		t.Errorf("stderr is %d bytes, want %d", len(r.errs), len(want))
	}
}

func (s suite) Ends(t *testing.T) {
	for script, want := range map[string]runner.Result{
		"exit 0":          {End: runner.Exited},
		"exit 3":          {End: runner.Exited, Code: 3},
		"exit 255":        {End: runner.Exited, Code: 255},
		"kill -KILL $$":   {End: runner.Signalled, Signal: syscall.SIGKILL},
		"kill -TERM $$":   {End: runner.Signalled, Signal: syscall.SIGTERM},
		"kill -SEGV $$":   {End: runner.Signalled, Signal: syscall.SIGSEGV},
		"exec >&- 2>&-":   {End: runner.Exited},
		"kill -KILL 0; :": {End: runner.Signalled, Signal: syscall.SIGKILL},
	} {
		t.Run(script, func(t *testing.T) {
			r := s.run(t, job("sh", script))
			if r.End != want.End || r.Code != want.Code || r.Signal != want.Signal || r.Err != nil {
				t.Errorf("%+v, want %+v", r.Result, want)
			}
		})
	}
}

// started is a Timeout by which a shell is surely up.
const started = 2 * time.Second

func (s suite) Timeout(t *testing.T) {
	t.Parallel()
	r := s.run(t, job("sh", `trap 'echo term; exit 0' TERM; echo up; sleep 600 & wait`, func(j *runner.Job) { j.Timeout = started }))
	if r.End != runner.TimedOut || r.out != "up\nterm\n" || r.Wall < started || r.took > 9*time.Second {
		t.Errorf("%+v, stdout %q, took %v", r.Result, r.out, r.took)
	}
}

func (s suite) GraceThenKill(t *testing.T) {
	t.Parallel()
	r := s.run(t, job("sh", `trap '' TERM; sleep 600 & sleep 600 & wait; wait; wait; sleep 600`, func(j *runner.Job) {
		j.Timeout, j.Grace = started, 100*time.Millisecond
	}))
	if r.End != runner.TimedOut || r.Wall < started+100*time.Millisecond || r.took > 9*time.Second {
		t.Errorf("%+v, took %v", r.Result, r.took)
	}
}

// A script that is stopped still gets its SIGTERM.
func (s suite) StoppedScript(t *testing.T) {
	t.Parallel()
	r := s.run(t, job("sh", `trap 'echo term; exit 0' TERM; kill -STOP $$; sleep 600 & wait`, func(j *runner.Job) { j.Timeout = started }))
	if r.End != runner.TimedOut || r.out != "term\n" {
		t.Errorf("%+v, stdout %q", r.Result, r.out)
	}
}

// signalWriter calls f at the first write.
type signalWriter struct {
	bytes.Buffer
	once sync.Once
	f    func()
}

func (w *signalWriter) Write(p []byte) (int, error) {
	w.once.Do(w.f)
	return w.Buffer.Write(p)
}

func (s suite) Cancel(t *testing.T) {
	for name, c := range map[string]struct {
		cause error
		want  string
	}{
		"with grace": {errors.New("drain"), "up\nterm\n"},
		"at once":    {fmt.Errorf("lease lost: %w", runner.ErrNow), "up\n"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			out := &signalWriter{f: func() { cancel(c.cause) }}
			collected := false
			r := s.runIn(t, ctx, job("sh", `trap 'echo term; exit 0' TERM; echo up; sleep 600 & wait`, func(j *runner.Job) {
				j.Stdout = out
				j.Collect = func(context.Context, *os.Root) error { collected = true; return nil }
			}))
			if r.End != runner.Killed || out.String() != c.want || r.took > 9*time.Second {
				t.Errorf("%+v, stdout %q, took %v", r.Result, out.String(), r.took)
			}
			if collected {
				t.Error("collected from a script that was killed")
			}
		})
	}
}

// ErrNow cuts the grace of a run that had timed out short.
func (s suite) NowDuringGrace(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	n := 0
	out := writerFunc(func(p []byte) (int, error) {
		if n++; n == 2 {
			cancel(runner.ErrNow)
		}
		return len(p), nil
	})
	r := s.runIn(t, ctx, job("sh", `trap 'echo term' TERM; echo up; while :; do sleep 0.01; done`, func(j *runner.Job) {
		j.Timeout, j.Stdout = started, out
	}))
	if r.End != runner.TimedOut || r.took > 9*time.Second {
		t.Errorf("%+v, took %v", r.Result, r.took)
	}
}

// Now alone kills without grace, and cuts short the grace of a script that was
// cancelled or has timed out.
func (s suite) Now(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		cancel  bool
		at      int // the write at which Now is closed
		want    runner.End
	}{
		"alone":                  {at: 1, want: runner.Killed},
		"after a cancel":         {cancel: true, at: 2, want: runner.Killed},
		"after the timeout":      {timeout: started, at: 2, want: runner.TimedOut},
		"together with a cancel": {cancel: true, at: 1, want: runner.Killed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			now := make(chan struct{})
			n := 0
			out := writerFunc(func(p []byte) (int, error) {
				n++
				if n == c.at {
					close(now)
				}
				if n == 1 && c.cancel {
					cancel(errors.New("drain"))
				}
				return len(p), nil
			})
			r := s.runIn(t, ctx, job("sh", `trap 'echo term' TERM; echo up; while :; do sleep 0.01; done`, func(j *runner.Job) {
				j.Timeout, j.Stdout, j.Now = c.timeout, out, now
			}))
			if r.End != c.want || n != c.at || r.took > 9*time.Second {
				t.Errorf("%+v after %d writes, took %v", r.Result, n, r.took)
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s suite) CancelBeforeStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := filepath.Join(t.TempDir(), "ran")
	j := job("sh", "touch "+ran)
	j.Files = []runner.File{{Name: "data", Open: func() (io.ReadCloser, error) { cancel(); return text("x")() }}}
	if r := s.runIn(t, ctx, j); r.End != runner.Killed {
		t.Errorf("cancelled while its input is fetched: %+v", r.Result)
	}
	if r := s.runIn(t, ctx, job("sh", "touch "+ran)); r.End != runner.Killed {
		t.Errorf("cancelled before: %+v", r.Result)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the script ran")
	}
}

func (s suite) Usage(t *testing.T) {
	const script = `
import time
x = bytearray(128 << 20)
for i in range(0, len(x), 4096): x[i] = 1
end = time.process_time() + 0.1
while time.process_time() < end: pass`
	r := s.run(t, job(python, script))
	good(t, r)
	if r.CPU < 100*time.Millisecond || r.Wall < r.CPU/2 || r.Wall > r.took {
		t.Errorf("cpu %v, wall %v, of %v", r.CPU, r.Wall, r.took)
	}
	var own syscall.Rusage // until it executes a script, a child counts what its parent has
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		t.Fatal(err)
	}
	unit := int64(1024)
	if runtime.GOOS == "darwin" {
		unit = 1
	}
	if most := max(512<<20, unit*int64(own.Maxrss)); r.MaxRSS < 128<<20 || r.MaxRSS > most {
		t.Errorf("max rss %d bytes, of at most %d", r.MaxRSS, most)
	}
}

func (s suite) NotInstalled(t *testing.T) {
	r := s.run(t, job("no-such-interpreter -x", ""))
	if r.End != runner.Failed || !errors.Is(r.Err, runner.ErrNotInstalled) || !strings.Contains(r.Err.Error(), "no-such-interpreter") {
		t.Errorf("%+v", r.Result)
	}
	r = s.run(t, job("", "#!/no/such/interpreter\n"))
	if r.End != runner.Failed || r.Err == nil || !strings.Contains(r.Err.Error(), "starting ./script") {
		t.Errorf("a binary's interpreter: %+v", r.Result)
	}
}

func (s suite) NotExecutable(t *testing.T) {
	for _, script := range []string{"", "echo no #! line\n", "\x7fELF nonsense"} {
		r := s.run(t, job("", script, func(j *runner.Job) {
			j.Collect = func(context.Context, *os.Root) error { return errors.New("collected") }
		}))
		if r.End != runner.Exited || r.Code != 126 || !errors.Is(r.Err, runner.ErrNotExecutable) || strings.Contains(r.Err.Error(), "collected") {
			t.Errorf("binary %q: %+v", script, r.Result)
		}
	}
}

// A thousand runs, eight at a time, of freshly written executables: none fails
// because another run's fork holds its script open, and nothing piles up.
func (s suite) ThousandRuns(t *testing.T) {
	s.run(t, job("", "#!/bin/sh\n")) // what the first run opens for good is not a leak
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	dir, spool := t.TempDir(), t.TempDir()
	exe, end := s.open(dir, spool)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 125 {
				var out bytes.Buffer
				r := exe.Run(t.Context(), job("", "#!/bin/sh\necho hello $0\n", func(j *runner.Job) {
					j.Stdout, j.Stdin = &out, strings.NewReader("never read")
				}))
				if r.End != runner.Exited || r.Code != 0 || r.Err != nil || out.String() != "hello ./script\n" {
					t.Errorf("%+v, stdout %q", r, out.String())
				}
			}
		})
	}
	wg.Wait()
	if err := end(); err != nil {
		t.Error(err)
	}
	if left := append(names(t, dir), names(t, spool)...); len(left) != 0 {
		t.Errorf("%d directories left, such as %s", len(left), left[0])
	}
	if now := openFiles(t); now > fds {
		t.Errorf("%d open descriptors, %d before", now, fds)
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("children are left: %v", err)
	}
	for begin := time.Now(); time.Since(begin) < 5*time.Second; runtime.Gosched() { // one that has done its work needs a moment to be gone
		if runtime.NumGoroutine() <= goroutines {
			return
		}
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	return len(names(t, "/dev/fd"))
}
