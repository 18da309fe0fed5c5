//go:build !linux

package runner

import (
	"fmt"
	"syscall"
	"time"
)

// maxRSSUnit is the unit of Rusage.Maxrss, in bytes (getrusage(2) of darwin).
const maxRSSUnit = 1

// groupLimit bounds how long a killed process group may take to die.
const groupLimit = 5 * time.Second

func (p *process) sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// wait waits for the leader to end, reaps it, and kills its process group.
// What left the group lives on: this system has no way to find it.
func (p *process) wait(string) {
	defer close(p.done)
	for {
		if _, err := syscall.Wait4(p.pid, &p.status, 0, &p.usage); err != syscall.EINTR {
			p.err = err
			break
		}
	}
	p.wall = time.Since(p.begin)
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
	p.exited.Store(true)
	for begin := time.Now(); syscall.Kill(-p.pid, syscall.SIGKILL) == nil; time.Sleep(time.Millisecond) {
		if time.Since(begin) > groupLimit {
			p.err = fmt.Errorf("process group %d lives on %v after SIGKILL", p.pid, groupLimit)
			return
		}
	}
}
