package runner

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxRSSUnit is the unit of Rusage.Maxrss, in bytes (getrusage(2)).
const maxRSSUnit = 1024

// sysProcAttr also keeps back every descriptor that the worker inherited
// without close-on-exec; those that it opened itself all have it.
func sysProcAttr() *syscall.SysProcAttr {
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11; before it, they leak
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// wait waits for the leader to end, kills what is left of the tree, and reaps.
// Until it is reaped the leader keeps its number, so that no signal meant for
// its group reaches another.
func (p *process) wait(marker string) {
	var err error
	for {
		err = unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	p.wall = time.Since(p.begin)
	close(p.exited)
	if err != nil {
		p.err = fmt.Errorf("waiting for process %d: %w", p.pid, err)
	}
	t := tree{leader: p.pid, marker: []byte(marker), brief: p.wall < briefRun}
	p.err = errors.Join(p.err, t.kill(), p.reap())
}
