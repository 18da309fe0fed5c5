package runner

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxRSSUnit is the unit of Rusage.Maxrss, in bytes (getrusage(2)).
const maxRSSUnit = 1024

// sysProcAttr also keeps back every descriptor that the worker inherited
// without close-on-exec; those that it opened itself all have it.
func (p *process) sysProcAttr() *syscall.SysProcAttr {
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11; before it, they leak
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, PidFD: &p.pidfd}
}

// wait waits for the leader to end, kills what is left of the tree, and reaps.
// Until it is reaped the leader keeps its number, so that no signal meant for
// its group reaches another.
func (p *process) wait(marker string) {
	defer close(p.done)
	if err := p.await(); err != nil {
		p.err = fmt.Errorf("waiting for process %d: %w", p.pid, err)
	}
	p.wall = time.Since(p.begin)
	p.exited.Store(true)
	t := tree{leader: p.pid, marker: []byte(marker), brief: p.wall < briefRun}
	p.err = errors.Join(p.err, t.kill(), p.reap())
}

// await returns when the leader has ended. Where the kernel gave a pidfd
// (Linux 5.2) no thread is blocked meanwhile.
func (p *process) await() error {
	if p.pidfd < 0 {
		_, err := p.over(0)
		return err
	}
	if err := unix.SetNonblock(p.pidfd, true); err != nil { // for the poller
		unix.Close(p.pidfd)
		_, err := p.over(0)
		return err
	}
	f := os.NewFile(uintptr(p.pidfd), "pidfd")
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ended bool
	rerr := conn.Read(func(uintptr) bool {
		ended, err = p.over(unix.WNOHANG)
		return ended || err != nil
	})
	if err == nil && !ended { // it cannot be polled: never so since Linux 5.3
		_, rerr = p.over(0)
	}
	return errors.Join(err, rerr)
}

// over reports whether the leader has ended, and leaves it to be reaped.
// Without WNOHANG it waits.
func (p *process) over(flag int) (bool, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT|flag, nil)
		if !errors.Is(err, syscall.EINTR) {
			return info.Signo != 0, err
		}
	}
}
