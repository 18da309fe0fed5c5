//go:build linux

package keeper

import (
	"cmp"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/sandbox"
)

// lookAround is how often orphans that have ended are reaped while a script
// runs, and how often a keeper that waits for an adopter sees whether one could
// still come.
const lookAround = time.Second

// A job is one script, from its start to its worker's word that it is done.
type job struct {
	Start
	pid, pidfd int           // of the script; 0, -1: it was never started
	began      time.Duration // CLOCK_BOOTTIME
	status     unix.WaitStatus
	usage      unix.Rusage
	exited     bool // the script itself has ended
	wall       time.Duration

	end    End
	ending bool
	killed bool          // everything of it was, by SIGKILL
	killAt time.Duration // once it is ending: when its grace is over
	stdin  feed
	out    [2]capture
	over   bool // everything is dead, and exit is set
	exit   Exit
	cell   *cell // nil: it runs without a sandbox
	group  *sandbox.Group
	ooms   int64    // of the group, before the script
	fed    uint64   // what the worker was told
	told   [2]int64 // likewise
}

// begin starts a script. Where the nursery cannot, it is executed.
func begin(s Start, files [3]int, n *nursery) *job {
	if j := n.take(s, files); j != nil {
		return j
	}
	j := &job{Start: s, pidfd: -1, stdin: feed{pipe: -1}, began: boottime()}
	if err := j.start(files, j.fork); err != nil {
		errno, _ := err.(syscall.Errno)
		j.end, j.exited, j.exit.Errno = NotStarted, true, uint32(cmp.Or(errno, syscall.EIO))
	}
	return j
}

// start makes the script's streams, and by fork its process.
func (j *job) start(files [3]int, fork func([3]int) error) error {
	theirs := [3]int{-1, -1, -1}
	err := j.openStreams(&theirs, files)
	if err == nil {
		err = fork(theirs)
	}
	for _, fd := range theirs {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return err
}

// openStreams makes the script's streams; theirs are its ends.
func (j *job) openStreams(theirs *[3]int, files [3]int) (err error) {
	var pipe [2]int
	if j.Stdin {
		if err = unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		theirs[0], j.stdin.pipe = pipe[0], pipe[1]
		err = unix.SetNonblock(pipe[1], true)
	} else {
		theirs[0], err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	for i, wanted := range []bool{j.Stdout, j.Stderr} {
		if j.out[i] = (capture{pipe: -1, file: files[i]}); err != nil {
			continue
		}
		if !wanted {
			theirs[1+i], err = unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			continue
		}
		if err = unix.Pipe2(pipe[:], unix.O_CLOEXEC); err == nil {
			j.out[i].pipe, theirs[1+i] = pipe[0], pipe[1]
			err = unix.SetNonblock(pipe[0], true)
		}
	}
	return err
}

// fork starts the process. A script that was just written may be held open for
// writing by a process that its worker is forking at this moment; it is over
// when that one has executed (golang.org/issue/22315).
func (j *job) fork(files [3]int) (err error) {
	attr := &syscall.ProcAttr{
		Dir: j.Dir, Env: j.Env, Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &j.pidfd},
	}
	for range 100 {
		j.pid, err = syscall.ForkExec(j.Path, j.Argv, attr)
		if err != syscall.ETXTBSY {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// polls appends what the job waits for. A stream of which the worker has yet
// to read as much as is kept is not read on, as long as there is a worker.
func (j *job) polls(fds []unix.PollFd, worker bool) []unix.PollFd {
	if j.over {
		return fds
	}
	fds = append(fds, unix.PollFd{Fd: int32(j.pidfd), Events: unix.POLLIN})
	if j.stdin.waits() {
		fds = append(fds, unix.PollFd{Fd: int32(j.stdin.pipe), Events: unix.POLLOUT})
	}
	for i := range j.out {
		if c := &j.out[i]; c.pipe >= 0 && c.room(worker) > 0 {
			fds = append(fds, unix.PollFd{Fd: int32(c.pipe), Events: unix.POLLIN})
		}
	}
	return fds
}

// next is when the clock has something to say, 0: never.
func (j *job) next() time.Duration {
	if j.over {
		return j.Until + linger
	}
	next := boottime() + lookAround
	if j.killed {
		return next // what does not die of it waits for the kernel
	}
	for _, t := range []time.Duration{j.Until, j.timeoutAt(), j.killAt} {
		if t > 0 {
			next = min(next, t)
		}
	}
	return next
}

// timeoutAt is when the script has run for too long, 0: never.
func (j *job) timeoutAt() time.Duration {
	if j.Timeout == 0 || j.ending {
		return 0
	}
	return j.began + j.Timeout
}

// watchTime does what is due.
func (j *job) watchTime() {
	now := boottime()
	due := func(t time.Duration) bool { return t > 0 && now >= t }
	switch {
	case due(j.Until):
		j.stop(LeaseOver, false)
	case due(j.timeoutAt()):
		j.stop(TimedOut, true)
	case due(j.killAt):
		j.stop(j.end, false)
	}
}

// stop ends the script: by SIGTERM to its process group, and SIGKILL to
// everything when its grace is over, or at once. What has ended already has
// ended by itself.
func (j *job) stop(end End, gently bool) {
	if j.reap(); j.exited {
		return
	}
	first := !j.ending
	if first {
		j.ending, j.end = true, end
	}
	switch {
	case !gently:
		unix.Kill(-1, unix.SIGKILL)
		j.killed, j.killAt = true, 0
	case first:
		if unix.Kill(-j.pid, unix.SIGTERM) != nil {
			unix.Kill(j.pid, unix.SIGTERM) // a nursery's child, which leads no group yet
		}
		unix.Kill(-j.pid, unix.SIGCONT) // it may be stopped
		j.killAt = boottime() + j.Grace
	}
}

// reap takes the status of whatever has ended.
func (j *job) reap() {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, &usage)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		j.reaped(pid, status, usage)
	}
}

func (j *job) reaped(pid int, status unix.WaitStatus, usage unix.Rusage) {
	if pid == j.pid && !j.exited {
		j.status, j.usage, j.exited, j.wall = status, usage, true, boottime()-j.began
	}
}

// pump moves what the streams have.
func (j *job) pump(buf []byte, worker bool) {
	j.stdin.flush()
	for i := range j.out {
		c := &j.out[i]
		c.read(buf, c.room(worker))
	}
}

// sizes is how much of each stream is kept.
func (j *job) sizes() [2]int64 { return [2]int64{j.out[0].size, j.out[1].size} }

// finish kills what the script has left and takes in the last of its output.
// It returns when nothing but the keeper is in the namespace.
func (j *job) finish(buf []byte) {
	killAll()
	for i := range j.out {
		j.out[i].read(buf, slack)
		j.out[i].close()
	}
	j.stdin.close()
	if j.pidfd >= 0 {
		unix.Close(j.pidfd)
		j.pidfd = -1
	}
	if j.cell != nil {
		var fs unix.Statfs_t
		j.exit.DiskFull = j.cell.dirs[0] > 0 && unix.Fstatfs(j.cell.dirs[0], &fs) == nil && fs.Bavail == 0
	}
	if j.over = true; j.group != nil {
		n, err := j.group.OOMKills()
		if j.exit.OOMKills = n - j.ooms; err != nil {
			j.exit.Trouble = err.Error()
		}
	}
	j.exit.End, j.exit.Status = j.end, uint32(j.status)
	j.exit.Wall, j.exit.MaxRSS = j.wall, j.usage.Maxrss
	j.exit.CPU = time.Duration(j.usage.Utime.Nano() + j.usage.Stime.Nano())
	j.exit.Stdout, j.exit.Stderr = j.out[0].size, j.out[1].size
	for i, c := range j.out {
		if c.err != nil {
			j.exit.Trouble = "keeping its " + streamNames[i] + ": " + c.err.Error()
		}
	}
}

// killAll returns when nothing but the keeper is in the namespace.
func killAll() {
	for err := error(nil); err != unix.ECHILD; {
		unix.Kill(-1, unix.SIGKILL)
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
}

func (j *job) trouble(err error) {
	if j.exit.Trouble == "" {
		j.exit.Trouble = "keeping how it ended: " + err.Error()
	}
}
