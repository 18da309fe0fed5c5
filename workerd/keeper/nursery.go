//go:build linux

package keeper

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/ahead"
	"modulate/workerd/timerslack"
)

// A Nursery is a kind of interpreter that forks for the scripts of keepers
// without a sandbox, one for each keeper: see package ahead. Each is beside its
// keeper in the worker's pid namespace, out of the scripts' reach and of the
// keeper's, which ends jobs by killing all that is in its own.
type Nursery struct {
	command []string
	program ahead.Program // nil: it cannot be had, and scripts are executed
	binary  os.FileInfo   // of the interpreter, before the program was made; nil: it was not there
	made    time.Time     // likewise, after
}

const (
	// compileLimit bounds how long an interpreter may take to make its program.
	compileLimit = 30 * time.Second
	// compileAgain is after how long one that could not is asked again.
	compileAgain = 10 * time.Minute
)

// NewNursery returns the kind for a command.
func NewNursery(command []string) *Nursery {
	n := &Nursery{command: command}
	if !ahead.Forks(command) {
		return n
	}
	ctx, cancel := context.WithTimeout(context.Background(), compileLimit)
	defer cancel()
	var err error
	if n.binary, err = os.Stat(command[0]); err == nil {
		n.program, _ = ahead.Compile(ctx, command)
	}
	n.made = time.Now()
	return n
}

// Current reports whether the interpreter is the one that it was, and another
// Nursery would not have a program where this has none.
func (n *Nursery) Current() bool {
	if !ahead.Forks(n.command) {
		return true
	}
	now, err := os.Stat(n.command[0])
	if n.binary == nil || err != nil {
		return n.binary == nil && err != nil // it is away, as it was
	}
	if !os.SameFile(now, n.binary) || !now.ModTime().Equal(n.binary.ModTime()) || now.Size() != n.binary.Size() {
		return false
	}
	return n.program != nil || time.Since(n.made) < compileAgain
}

// mostForks is for how many scripts one interpreter forks: they have in common
// what it drew at random as it started.
const mostForks = 1000

// A forker is the interpreter of one keeper, or stands for one that cannot be
// had. What fails of it is no error: then scripts are executed.
type forker struct {
	*Nursery
	keepers, theirs *os.File  // the ends of its socket, until it is up; nil: there is no program
	cmd             *exec.Cmd // nil: it was not started
	up              bool
	forks           int // scripts that were to be
}

// open makes what a keeper is to have of its nursery. nil: it has none.
func (n *Nursery) open() (*forker, error) {
	if n == nil {
		return nil, nil
	}
	if n.program == nil {
		return &forker{Nursery: n}, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	return &forker{Nursery: n, keepers: os.NewFile(uintptr(pair[0]), "keeper"), theirs: os.NewFile(uintptr(pair[1]), "nursery")}, nil
}

// socket is the keeper's end, nil: there is none.
func (f *forker) socket() *os.File {
	if f == nil {
		return nil
	}
	return f.keepers
}

// close closes both ends of the socket here.
func (f *forker) close() {
	if f != nil && f.keepers != nil {
		f.keepers.Close()
		f.theirs.Close()
	}
}

// start starts the interpreter of a keeper.
func (f *forker) start(keeper int) {
	if f == nil || f.keepers == nil || f.program.Send(f.keepers) != nil {
		return
	}
	pidfd, err := unix.PidfdOpen(keeper, 0)
	if err != nil {
		return
	}
	process := os.NewFile(uintptr(pidfd), "keeper")
	defer process.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	defer r.Close()
	defer w.Close()
	into := []string{"4"}
	if os.Geteuid() != 0 { // see Program.command
		into = append(into, "user")
	}
	argv := ahead.Nursery(f.command, 3, into...)
	cmd := &exec.Cmd{
		Path: argv[0], Args: argv, Dir: "/", Env: []string{}, Stdin: r, Stdout: w, Stderr: w,
		ExtraFiles: []*os.File{f.theirs, process}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends here
		timerslack.Narrow()
		started <- cmd.Start()
	}()
	if <-started == nil {
		f.cmd = cmd
	}
}

// await waits until it is up, and closes the socket here: it and the keeper
// have the ends.
func (f *forker) await() {
	if f == nil || f.keepers == nil {
		return
	}
	f.theirs.Close()
	if f.cmd != nil {
		_, err := ready(int(f.keepers.Fd()), helloLimit)
		f.up = err == nil
	}
	f.keepers.Close()
}

// fit reports whether it is as good as a new one.
func (f *forker) fit() bool {
	if !f.Current() {
		return false
	}
	if !f.up {
		return true // nor is a new one better
	}
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, f.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0 && f.forks < mostForks
}

// end waits for its end, which follows on its keeper's.
func (f *forker) end() {
	if f == nil || f.cmd == nil {
		return
	}
	late := time.AfterFunc(helloLimit, func() { f.cmd.Process.Kill() })
	defer late.Stop()
	f.cmd.Wait()
}

// leave lets it go on, for as long as its keeper.
func (f *forker) leave() {
	if f != nil && f.cmd != nil {
		f.cmd.Process.Release()
	}
}

// Forks reports whether the keeper's scripts of a command are forked.
func (c *Client) Forks(command []string) bool {
	return c.forker != nil && c.forker.up && slices.Equal(command, c.forker.command)
}

// Fit reports whether the keeper, which is idle, may have another job: it lives,
// and its nursery, if it has one, is to fork on.
func (c *Client) Fit() bool { return c.Alive() && (c.forker == nil || c.forker.fit()) }

// A nursery is a keeper's end of the socket to one, and what that has forked
// ahead.
type nursery struct {
	socket  int
	next    *job // its process waits for its script; nil: there is none
	control int  // to that
}

// forkLimit bounds how long a process may take to be there.
const forkLimit = 2 * time.Second

// take gives a script to the process that waits, or to one that is forked now.
// nil: it is to be executed, and none is there.
func (n *nursery) take(s Start, files [3]int) *job {
	if n.next != nil && s.Forked > 0 {
		if j := n.give(s); j != nil {
			return j
		}
	}
	n.drop()
	if s.Forked > 0 && n.prepare(files) {
		if j := n.give(s); j != nil {
			return j
		}
		n.drop()
	}
	return nil
}

// prepare has a process forked. What fails once is not asked again.
func (n *nursery) prepare(files [3]int) bool {
	if n.socket < 0 {
		return false
	}
	n.next, n.control = &job{Start: Start{Stdin: true, Stdout: true, Stderr: true}, pidfd: -1, stdin: feed{pipe: -1}}, -1
	if err := n.next.start(files, n.bear); err != nil {
		unix.Close(n.socket)
		n.socket = -1
		n.drop()
		return false
	}
	return true
}

// bear makes the process of next.
func (n *nursery) bear(streams [3]int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.control = pair[0]
	err = ahead.Fork(n.socket, streams, pair[1])
	unix.Close(pair[1])
	if err != nil {
		return err
	}
	if n.next.pid, err = ready(n.control, forkLimit); err != nil {
		return err
	}
	n.next.pidfd, err = unix.PidfdOpen(n.next.pid, 0)
	return err
}

// give gives the script to next. nil: that does not take it.
func (n *nursery) give(s Start) *job {
	j := n.next
	script := ahead.Script{Command: s.Argv[:s.Forked], Name: s.Argv[s.Forked], Args: s.Argv[s.Forked+1:], Env: s.Env, Dir: s.Dir}
	if readable(j.pidfd) || script.Send(descriptor(n.control)) != nil {
		return nil
	}
	unix.Close(n.control)
	n.next = nil
	j.Start, j.began, j.stdin.last = s, boottime(), !s.Stdin
	return j
}

// drop ends next, if there is one.
func (n *nursery) drop() {
	j := n.next
	if j == nil {
		return
	}
	n.next = nil
	killAll()
	j.stdin.close()
	j.out[0].close()
	j.out[1].close()
	for _, fd := range []int{n.control, j.pidfd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ready is [ahead.Ready] of a socket that has to answer within limit.
func ready(socket int, limit time.Duration) (int, error) {
	t := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t); err != nil {
		return 0, err
	}
	return ahead.Ready(descriptor(socket))
}
