package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
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

// kill kills the group, then whatever else is found, until nothing is.
//
// Numbers are given out in ascending order, so what is new stands above the
// last one that was looked at: even a process that goes on by forking and
// ending itself is met, again and again.
func (t tree) kill() error {
	deadline := time.Now().Add(killLimit)
	low, every := t.leader, !t.brief // nothing up to low is ours
	for {
		syscall.Kill(-t.leader, syscall.SIGKILL)
		last, err := lastPID()
		if err != nil {
			return fmt.Errorf("looking for what the script left running: %w", err)
		}
		if last == low && !every {
			return nil
		}
		every = every || last < low || last-low > maxSpan
		pids, err := candidates(low, last, every)
		if err != nil {
			return fmt.Errorf("looking for what the script left running: %w", err)
		}
		found := t.hunt(pids)
		if len(found) == 0 {
			low, every = last, false
			continue
		}
		low = slices.Min(found) - 1
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of the script, such as %d, live on %v after SIGKILL", len(found), found[0], killLimit)
		}
	}
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

// hunt kills those of pids that are of the tree, waits a moment for them to be
// dead, and returns them. A zombie is dead unless a thread of it lives.
func (t tree) hunt(pids []int) (found []int) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	mine := map[int]bool{t.leader: true}
	take := func(p proc) {
		if mine[p.pid] = true; p.zombie && over(p) {
			return
		}
		found = append(found, p.pid)
		if fd, err := p.kill(); err == nil && len(fds) < maxHeld {
			fds = append(fds, fd)
		} else if err == nil {
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
	for _, fd := range fds {
		ended(fd, killWait)
	}
	if len(found) > 0 && len(fds) == 0 {
		time.Sleep(time.Millisecond) // nothing to wait for
	}
	return found
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

// kill kills p, and not another that has got its number since. It returns a
// pidfd of it.
func (p proc) kill() (int, error) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return 0, errors.Join(err, syscall.Kill(p.pid, syscall.SIGKILL))
	}
	if err != nil {
		return 0, err // gone, or a mere thread
	}
	if again, ok := readProc(p.pid); ok && again.begin == p.begin {
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
