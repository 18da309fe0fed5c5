package runner_test

import (
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"modulate/workerd/runner"
)

// counter counts bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (s suite) Flood(t *testing.T) {
	const size = 100 << 20
	var out counter
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	good(t, s.run(t, job("sh", "head -c "+strconv.Itoa(size)+" /dev/zero", func(j *runner.Job) { j.Stdout = &out })))
	runtime.ReadMemStats(&after)
	if out != size {
		t.Errorf("%d bytes came, want %d", out, size)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

// Outputs that nobody reads do not stop the script, whatever comes.
func (s suite) FloodUnread(t *testing.T) {
	exe, end := s.open(t.TempDir(), t.TempDir())
	good(t, ran{Result: exe.Run(t.Context(), floodUnread())})
	if err := end(); err != nil {
		t.Error(err)
	}
}

// floodUnread is a job that writes more of each output than is kept.
func floodUnread() runner.Job {
	return job(python, `
import os
for n in range(320): os.write(1, bytes(65536)); os.write(2, bytes(65536)) # 20 MiB`, func(j *runner.Job) { j.Timeout = time.Minute })
}

// A writer that takes no more does not stop the script.
func (s suite) WriterFails(t *testing.T) {
	full := errors.New("full")
	r := s.run(t, job("sh", "head -c 1000000 /dev/zero; exit 3", func(j *runner.Job) {
		j.Stdout = writerFunc(func([]byte) (int, error) { return 0, full })
	}))
	if r.End != runner.Exited || r.Code != 3 || !errors.Is(r.Err, full) {
		t.Errorf("%+v", r.Result)
	}
}

// A process that nobody can find keeps the pipe open: it is left behind, and
// the run ends all the same.
func TestPipeHeldByStranger(t *testing.T) {
	r := execSuite.run(t, job("sh", `env -i setsid sh -c 'env -i setsid sleep 600 & echo $!'; sleep 0.05; echo end`))
	good(t, r)
	pid, rest, _ := strings.Cut(r.out, "\n")
	if rest != "end\n" || r.took > 9*time.Second {
		t.Errorf("stdout %q, took %v", r.out, r.took)
	}
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		t.Fatalf("no pid: %v", err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Errorf("the stranger was not there: %v", err)
	}
}

func (s suite) Stdin(t *testing.T) {
	endless := iotest.OneByteReader(zeros{})
	r := s.run(t, job("sh", "head -c 3 >/dev/null; echo enough", func(j *runner.Job) { j.Stdin = endless }))
	if good(t, r); r.out != "enough\n" {
		t.Errorf("stdout %q", r.out)
	}
	if r := s.run(t, job("cat", "", func(j *runner.Job) { j.Args = []string{"-"} })); r.Code != 0 || r.out != "" {
		t.Errorf("without a stdin: %+v %q", r.Result, r.out)
	}
	large := strings.Repeat("0123456789", 100_000)
	r = s.run(t, job("sh", "cat", func(j *runner.Job) { j.Stdin = strings.NewReader(large) }))
	if good(t, r); r.out != large {
		t.Errorf("%d bytes came back of %d", len(r.out), len(large))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A script whose stdin cannot be had whole does not end well.
func (s suite) StdinFails(t *testing.T) {
	broken := errors.New("broken")
	src := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
	r := s.run(t, job("sh", "cat >/dev/null; echo end", func(j *runner.Job) { j.Stdin = src }))
	if r.End != runner.Failed || !errors.Is(r.Err, broken) || r.out != "" {
		t.Errorf("%+v, stdout %q", r.Result, r.out)
	}
}

// A source that never answers does not keep a script that has ended.
func (s suite) StdinHangs(t *testing.T) {
	src, w := io.Pipe()
	defer w.Close() // lets the reader go
	good(t, s.run(t, job("sh", "exit 0", func(j *runner.Job) { j.Stdin = src })))
}
