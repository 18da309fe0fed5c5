package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is a server under test.
type process struct {
	url string
	cmd *exec.Cmd
}

// startServer starts this program again as a server on dir.
func startServer(ctx context.Context, kind, dir string, slots int) (*process, error) {
	return startProcess(ctx, kind, dir, strconv.Itoa(slots))
}

// start starts a server that needs no directory.
func start(ctx context.Context, kind string) (url string, stop func(), err error) {
	s, err := startProcess(ctx, kind)
	if err != nil {
		return "", nil, err
	}
	return s.url, s.stop, nil
}

func startProcess(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &process{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("starting %v: %w", args, err)
	}
	s.url = strings.TrimSpace(line)
	go io.Copy(io.Discard, out)
	return s, nil
}

// stop ends the process and waits for it.
func (s *process) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
}

// peakMiB returns the largest resident set that the process ever had.
func (s *process) peakMiB() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in the status of process %d", s.cmd.Process.Pid)
}

// cpu returns the time on the processor of all threads of the process, which
// the kernel counts in nanoseconds (/proc/pid/task/tid/schedstat).
func (s *process) cpu() (time.Duration, error) {
	pid := s.cmd.Process.Pid
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// idle measures a server that nobody uses: its processor time after it was
// used once, over ten seconds a round.
func idle(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "exec", dir, slots())
	if err != nil {
		return err
	}
	defer srv.stop()
	if err := newSubmitter(srv.url, 1, helloSource).whole(ctx); err != nil {
		return err
	}
	const quiet = 10 * time.Second
	v, err := each(func() ([]float64, error) {
		before, err := srv.cpu()
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		after, err := srv.cpu()
		return []float64{100 * float64(after-before) / float64(quiet)}, err
	})
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	figure{name: "idle server", unit: "% of a core", value: median(v[0]), floor: "-", reach: 0.1}.print(w)
	return nil
}
