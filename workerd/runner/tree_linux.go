package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killLimit = 5 * time.Second       // for a killed tree to be dead
	killWait  = 20 * time.Millisecond // for one process, before the next look
	maxHeld   = 64                    // killed processes waited for at once
	maxSpan   = 256                   // process numbers looked at one by one
	maxRounds = 8                     // of stopping, before the first is killed
	briefRun  = time.Second           // too short for the numbers to have gone round
)

// A tree is what a leader that has ended, but is not reaped, may have left.
type tree struct {
	leader int
	marker []byte // NAME=value in the environment of its processes
	brief  bool   // it ran less than briefRun
}

// A proc is a process as /proc/PID/stat shows it.
type proc struct {
	pid, parent, session int
	zombie               bool
	begin                string // start time; with pid it names one process for ever
}

// kill stops whatever it finds of the tree, kills it once it finds no more, and
// begins again until nothing is found. As long as a parent is there, stopped or
// not, a child that hides its session and its environment is known by it.
//
// Numbers are given out in ascending order, so what is new stands above the
// last one that was looked at: even a process that goes on by forking and
// ending itself is met, again and again.
func (t tree) kill() error {
	deadline := time.Now().Add(killLimit)
	low, every := t.leader, !t.brief // nothing up to low is ours
	for {
		syscall.Kill(-t.leader, syscall.SIGSTOP)
		caught, last, err := t.stop(low, every)
		if err != nil {
			return fmt.Errorf("looking for what the script left running: %w", err)
		}
		syscall.Kill(-t.leader, syscall.SIGKILL)
		if len(caught) == 0 && last == low {
			return nil
		}
		if low, every = last, false; len(caught) == 0 {
			continue
		}
		killAll(caught)
		for _, p := range caught {
			low = min(low, p.pid-1)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of the script, such as %d, live on %v after SIGKILL", len(caught), caught[0].pid, killLimit)
		}
	}
}

// stop stops the processes of the tree whose numbers are above low, or all,
// and goes on with the numbers given out meanwhile until it finds no more. It
// returns them and the last number that it looked at.
func (t tree) stop(low int, every bool) (caught []proc, last int, err error) {
	mine := map[int]bool{t.leader: true}
	for round := 0; round < maxRounds; round++ {
		if last, err = lastPID(); err != nil || last == low && !every {
			return caught, last, err
		}
		every = every || last < low || last-low > maxSpan
		pids, err := candidates(low, last, every)
		if err != nil {
			return caught, last, err
		}
		found := t.hunt(pids, mine)
		if len(found) == 0 {
			break
		}
		caught = append(caught, found...)
		low, every = last, false
	}
	return caught, last, nil
}

// candidates returns the numbers above low up to last, or of every process.
func candidates(low, last int, every bool) ([]int, error) {
	if !every {
		pids := make([]int, 0, last-low)
		for pid := low + 1; pid <= last; pid++ {
			pids = append(pids, pid)
		}
		return pids, nil
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// hunt stops those of pids that are of the tree, adds them to mine and returns
// them. A zombie is dead unless a thread of it lives.
func (t tree) hunt(pids []int, mine map[int]bool) (found []proc) {
	take := func(p proc) {
		if mine[p.pid] = true; p.zombie && over(p) {
			return
		}
		found = append(found, p)
		if fd, err := p.signal(unix.SIGSTOP); err == nil {
			unix.Close(fd)
		}
	}
	var others []proc
	for _, pid := range pids {
		p, ok := readProc(pid)
		switch {
		case !ok || pid == t.leader:
		case p.session == t.leader || mine[p.parent] || t.marked(pid):
			take(p)
		default:
			others = append(others, p)
		}
	}
	for grown := true; grown; { // children that came before their parents
		grown = false
		for _, p := range others {
			if mine[p.parent] && !mine[p.pid] {
				take(p)
				grown = true
			}
		}
	}
	return found
}

// killAll kills what was caught and waits a moment for it to be dead.
func killAll(caught []proc) {
	var fds []int
	for _, p := range caught {
		fd, err := p.signal(unix.SIGKILL)
		switch {
		case err != nil:
		case len(fds) < maxHeld:
			fds = append(fds, fd)
		default:
			unix.Close(fd)
		}
	}
	for _, fd := range fds {
		ended(fd, killWait)
		unix.Close(fd)
	}
	if len(fds) == 0 {
		time.Sleep(time.Millisecond) // nothing to wait for
	}
}

// lastPID returns the number that was given out last: the fifth field of
// /proc/loadavg (proc_loadavg(5)).
func lastPID() (int, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 5 {
		return 0, fmt.Errorf("/proc/loadavg has %d fields, want 5", len(fields))
	}
	return strconv.Atoi(string(fields[4]))
}

// readProc reads /proc/PID/stat: pid (name) state ppid pgrp session …, the
// start time being field 22 (proc_pid_stat(5)). False: there is none.
func readProc(pid int) (proc, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return proc{}, false
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return proc{}, false
	}
	p := proc{pid: pid, zombie: fields[0][0] == 'Z' || fields[0][0] == 'X', begin: string(fields[19])}
	p.parent, _ = strconv.Atoi(string(fields[1]))
	p.session, _ = strconv.Atoi(string(fields[3]))
	return p, true
}

// marked reports whether the process was started with the marker in its
// environment.
func (t tree) marked(pid int) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false // gone, or not ours to read
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(entry, t.marker) {
			return true
		}
	}
	return false
}

// over reports whether no thread of a zombie lives, and takes it if it was
// given to us.
func over(p proc) bool {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	if !ended(fd, 0) {
		return false
	}
	if p.parent == os.Getpid() {
		syscall.Wait4(p.pid, nil, syscall.WNOHANG, nil)
	}
	return true
}

// ended reports whether the process behind a pidfd has ended within limit.
func ended(fd int, limit time.Duration) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	return n > 0
}

// signal signals p, and not another that has got its number since. It returns
// a pidfd of it.
func (p proc) signal(sig syscall.Signal) (int, error) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return 0, errors.Join(err, syscall.Kill(p.pid, sig))
	}
	if err != nil {
		return 0, err // gone, or a mere thread
	}
	if again, ok := readProc(p.pid); ok && again.begin == p.begin {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
