//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A child is a process that a test started, in a process group of its own. It
// dies with the test.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdout *lines
	stderr *lines
	gone   chan struct{} // closed once it was reaped
}

// lines is an output, line by line, that a test can wait on.
type lines struct {
	*feed[string]
	mu   sync.Mutex
	rest []byte
	text bytes.Buffer
}

func newLines() *lines { return &lines{feed: newFeed[string]()} }

// Write takes output in.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	l.rest = append(l.rest, p...)
	for {
		line, after, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.add(string(line))
		l.rest = after
	}
}

// String returns all output so far.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs a command; env is added to a minimal environment.
func start(t *testing.T, name string, env []string, argv ...string) *child {
	t.Helper()
	c := &child{name: name, cmd: exec.Command(argv[0], argv[1:]...), stdout: newLines(), stderr: newLines(), gone: make(chan struct{})}
	// The scripts leave their marks in files of the host, so that no sandbox is
	// around them.
	open := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(open, []byte("[sandbox]\nlevel = 'none'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "MODULATE_CONFIG=" + open}, env...)
	c.cmd.Stdout, c.cmd.Stderr = c.stdout, c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.cmd.WaitDelay = 5 * time.Second
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		c.cmd.Wait()
		close(c.gone)
	}()
	t.Cleanup(func() {
		c.kill()
		if said := c.stderr.String(); t.Failed() && said != "" {
			t.Logf("%s (%s) wrote:\n%s%s", name, strings.Join(argv, " "), tail(c.stdout.String()), tail(said))
		}
	})
	return c
}

// tail is the last part of a log, enough to see what went wrong.
func tail(s string) string {
	const most = 16 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// signal sends sig to the process alone, not to its group.
func (c *child) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("sending %s to %s: %v", sig, c.name, err)
	}
}

// kill is kill -9, and waits until the process is reaped. A process that is
// gone already is left alone.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.gone
}

// stop asks the process to end, as an operator does, and returns its exit code.
func (c *child) stop(ctx context.Context, t *testing.T) int {
	t.Helper()
	c.signal(t, syscall.SIGTERM)
	return c.exit(ctx, t)
}

// exit waits for the process to end by itself and returns its exit code.
func (c *child) exit(ctx context.Context, t *testing.T) int {
	t.Helper()
	select {
	case <-c.gone:
		return c.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		t.Fatalf("%s does not end: %v", c.name, context.Cause(ctx))
		return -1
	}
}

// A handle names one process for ever, whatever becomes of its pid.
type handle struct {
	pid int
	fd  int
}

// hold returns a handle on a process, or false when it is gone already.
func hold(t *testing.T, pid int) (handle, bool) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return handle{}, false
	}
	t.Cleanup(func() { unix.Close(fd) })
	return handle{pid: pid, fd: fd}, true
}

// kill kills the process, and nobody else who got its number.
func (h handle) kill(t *testing.T) {
	t.Helper()
	if err := unix.PidfdSendSignal(h.fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		t.Fatalf("killing process %d: %v", h.pid, err)
	}
}

// ended waits until the process is dead, within limit.
func (h handle) ended(limit time.Duration) error {
	until := time.Now().Add(limit)
	for {
		left := max(0, time.Until(until))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("waiting for process %d: %w", h.pid, err)
		case n == 1:
			return nil
		default:
			return fmt.Errorf("process %d still runs after %s", h.pid, limit)
		}
	}
}

// parentOf returns the pid of the parent of pid, 0 when it is gone.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var state string
	var parent int
	fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
	return parent
}
