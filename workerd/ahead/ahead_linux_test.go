package ahead_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"modulate/workerd/ahead"
	"modulate/workerd/runner"
)

// limit is how long a script of a test may run.
const limit = time.Minute

// An attempt is one way to run a script.
type attempt struct {
	command []string
	program ahead.Program
	nursery *os.File // the socket of the one for the command
	name    string   // of the script
	args    []string
	env     []string
	dir     string
	stdin   string
	stdout  func(t *testing.T) *os.File // nil: it is read
	closed  int                         // a descriptor that is closed, plus one
}

// An end is what there is to see of a run.
type end struct {
	stdout, stderr string
	status         syscall.WaitStatus
}

// process makes argv a process with the streams of a.
func (a attempt) process(t *testing.T, argv []string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	if a.closed > 0 {
		argv = append([]string{"/bin/sh", "-c", `exec "$@" ` + []string{"<&-", ">&-", "2>&-"}[a.closed-1], "sh"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(a.stdin), &stdout, &stderr
	if a.stdout != nil {
		f := a.stdout(t)
		t.Cleanup(func() { f.Close() })
		cmd.Stdout = f
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, &stdout, &stderr
}

// bare runs the script as anybody would.
func (a attempt) bare(t *testing.T) end {
	t.Helper()
	cmd, stdout, stderr := a.process(t, slices.Concat(a.command, []string{a.name}, a.args))
	cmd.Dir, cmd.Env = a.dir, append([]string{}, a.env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return finish(t, cmd, stdout, stderr)
}

// parked runs it in an interpreter that was started somewhere else, with no
// environment but what package site looks at.
func (a attempt) parked(t *testing.T) end {
	t.Helper()
	ours, theirs := socketpair(t)
	if err := a.program.Send(ours); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, stderr := a.process(t, ahead.Command(a.command, 3))
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, []*os.File{theirs}
	if !slices.Contains(a.command, "-S") {
		cmd.Env = []string{"HOME=/nowhere"}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if pid, err := ahead.Ready(ours); err != nil || pid != cmd.Process.Pid {
		t.Fatalf("parked: process %d, %v, want %d; stderr %q", pid, err, cmd.Process.Pid, stderr)
	}
	s := ahead.Script{Command: a.command, Name: a.name, Args: a.args, Env: a.env, Dir: a.dir}
	if err := s.Send(ours); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("it sent %d bytes as it took the script, %v", n, err)
	}
	return finish(t, cmd, stdout, stderr)
}

func finish(t *testing.T, cmd *exec.Cmd, stdout, stderr *bytes.Buffer) end {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return end{stdout.String(), stderr.String(), cmd.ProcessState.Sys().(syscall.WaitStatus)}
}

// compiled returns the program of a command.
func compiled(t testing.TB, command []string) ahead.Program {
	t.Helper()
	program, err := ahead.Compile(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// socketpair returns the two ends of a socket, neither inherited by accident.
func socketpair(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// pythons are the interpreters of this machine: the python3 of PATH and every
// other one there or of a pyenv.
func pythons(t testing.TB) []string {
	t.Helper()
	first, err := runner.Python()
	if err != nil {
		t.Fatal(err)
	}
	all := []string{first}
	home, _ := os.UserHomeDir()
	for _, pattern := range []string{"/usr/bin/python3.[0-9]*", "/usr/local/bin/python3.[0-9]*", filepath.Join(home, ".pyenv/versions/3.*/bin/python3.[0-9]*")} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			minor, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(path), "."))
			if err == nil && minor >= 8 && !slices.Contains(all, path) {
				all = append(all, path)
			}
		}
	}
	return all
}
