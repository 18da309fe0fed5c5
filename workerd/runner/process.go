package runner

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A process is a running script, the leader of its session and of its process
// group.
type process struct {
	pid    int
	pidfd  int // -1 where there is none
	begin  time.Time
	exited atomic.Bool   // the leader has ended
	done   chan struct{} // closed when all that it started is dead too, and it is reaped

	mu     sync.Mutex
	reaped bool // its number may be another's

	// Set before done is closed.
	wall   time.Duration
	status syscall.WaitStatus
	usage  syscall.Rusage
	err    error
}

// signal sends sig to the process group, if it can be sure whose it is.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		syscall.Kill(-p.pid, sig) // fails when nobody is left
	}
}

// reap takes the leader's status and gives its number up.
func (p *process) reap() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	for {
		if _, err := syscall.Wait4(p.pid, &p.status, 0, &p.usage); err != syscall.EINTR {
			return err
		}
	}
}
