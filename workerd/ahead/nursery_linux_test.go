package ahead_test

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"modulate/workerd/ahead"
)

// nursery starts one for a command, and returns its socket and its process.
func nursery(t testing.TB, command []string, program ahead.Program) (*os.File, *exec.Cmd) {
	t.Helper()
	const subreaper = 36 // PR_SET_CHILD_SUBREAPER: what it forks becomes this process's
	if _, _, err := syscall.RawSyscall(syscall.SYS_PRCTL, subreaper, 1, 0); err != 0 {
		t.Fatal(err)
	}
	ours, theirs := socketpair(t)
	if err := program.Send(ours); err != nil {
		t.Fatal(err)
	}
	argv := ahead.Nursery(command, 3)
	in, out := pipe(t)
	cmd := &exec.Cmd{
		Path: argv[0], Args: argv, Dir: "/", Env: []string{}, Stdin: in, Stdout: out, Stderr: out,
		ExtraFiles: []*os.File{theirs}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if pid, err := ahead.Ready(ours); err != nil || pid != cmd.Process.Pid {
		t.Fatalf("a nursery: process %d, %v, want %d", pid, err, cmd.Process.Pid)
	}
	t.Cleanup(func() {
		ours.Close()
		if err := cmd.Wait(); err != nil && err.Error() != "signal: killed" {
			t.Errorf("the nursery's end: %v", err)
		}
	})
	return ours, cmd
}

// pipe returns one that is closed with the test at the latest.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// forks reports whether there is a nursery for a, whose streams are such as its
// scripts may have.
func (a attempt) forks(t *testing.T) bool {
	if a.nursery == nil || a.closed > 0 || a.stdout == nil {
		return a.nursery != nil && a.closed == 0
	}
	f := a.stdout(t)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()&os.ModeNamedPipe != 0
}

// born has a process forked for a, with its streams; the others are read and
// written until all is done.
func (a attempt) born(t *testing.T) (pid int, control *os.File, done func() (stdout, stderr string)) {
	t.Helper()
	control, theirs := socketpair(t)
	in, feed := pipe(t)
	outs, out := pipe(t)
	errs, err := pipe(t)
	if a.stdout != nil {
		out.Close()
		out = a.stdout(t)
	}
	if err := ahead.Fork(int(a.nursery.Fd()), [3]int{int(in.Fd()), int(out.Fd()), int(err.Fd())}, int(theirs.Fd())); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{in, out, err, theirs} {
		f.Close()
	}
	var all sync.WaitGroup
	var said [2]strings.Builder
	all.Go(func() { io.WriteString(feed, a.stdin); feed.Close() })
	all.Go(func() { io.Copy(&said[0], outs) })
	all.Go(func() { io.Copy(&said[1], errs) })
	pid, problem := ahead.Ready(control)
	if problem != nil {
		t.Fatal(problem)
	}
	return pid, control, func() (string, string) {
		all.Wait()
		return said[0].String(), said[1].String()
	}
}

// forked runs the script in a process that a nursery forks.
func (a attempt) forked(t *testing.T) (e end) {
	t.Helper()
	pid, control, done := a.born(t)
	s := ahead.Script{Command: a.command, Name: a.name, Args: a.args, Env: a.env, Dir: a.dir}
	if err := s.Send(control); err != nil {
		t.Fatal(err)
	}
	if n, err := control.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("it sent %d bytes as it took the script, %v", n, err)
	}
	lives := time.AfterFunc(limit, func() { syscall.Kill(pid, syscall.SIGKILL) })
	defer lives.Stop()
	e.stdout, e.stderr = done()
	e.status = reap(t, pid)
	return e
}

// reap returns how a process ended that became a child of this one.
func reap(t *testing.T, pid int) (status syscall.WaitStatus) {
	t.Helper()
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err == nil {
			return status
		}
		if err != syscall.EINTR {
			t.Fatalf("waiting for process %d: %v", pid, err)
		}
	}
}

// A nursery's children are on their own: they lead their session, and live on
// when it dies. One that is not wanted ends, and so does the nursery.
func TestNursery(t *testing.T) {
	for _, python := range pythons(t) {
		command := []string{python, "-I", "-S"}
		socket, cmd := nursery(t, command, compiled(t, command))
		a := attempt{command: command, nursery: socket, stdin: "word\n"}
		pid, control, done := a.born(t)
		control.Close()
		if out, errs := done(); out != "" || errs != "" || reap(t, pid) != 0 {
			t.Errorf("%s: one that was dismissed wrote %q, %q", python, out, errs)
		}
		pid, control, done = a.born(t)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		const script = "import os, sys; print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getppid(), sys.stdin.read())"
		dir := t.TempDir()
		lay(t, dir, map[string]string{"s.py": script})
		if err := (ahead.Script{Command: command, Name: "s.py", Dir: dir}).Send(control); err != nil {
			t.Fatal(err)
		}
		out, errs := done()
		status := reap(t, pid)
		if want := "True " + strconv.Itoa(os.Getpid()) + " word\n\n"; out != want || status != 0 {
			t.Errorf("%s: %q, want %q; %#x, stderr %q", python, out, want, status, errs)
		}
	}
}
