//go:build linux

package keeper

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

	"modulate/workerd/ahead"
	"modulate/workerd/sandbox"
)

// A box is what the scripts of a keeper run in: one sandbox after another,
// each for one script, in one cgroup and under one uid. One is always made
// ahead, with an interpreter that waits in it.
type box struct {
	Box
	uid   *sandbox.UID   // nil: the keeper is not root's
	group *sandbox.Group // nil: there are no cgroups
	root  *sandbox.Root  // nil: it is not made yet
	cell  *cell          // the one that is made ahead; nil: it could not be
}

// open takes what a box has for good.
func (b *box) open() (err error) {
	if err := sandbox.Enter(b.Config.Limits); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if b.uid, err = sandbox.LeaseUID(); err != nil {
			return err
		}
	}
	if b.Group != "" {
		b.group, err = sandbox.OpenGroup(b.Group, b.Config.Limits)
	}
	return err
}

// close gives it back, and ends the cell.
func (b *box) close() {
	if b.cell != nil {
		b.cell.discard()
	}
	if b.group != nil {
		b.group.Close()
	}
	if b.uid != nil {
		b.uid.Close()
	}
}

// startLimit bounds how long a sandbox may take to come up.
const startLimit = 10 * time.Second

// A cell is one sandbox. Its script's process is there before the script is:
// an interpreter that waits at control, or a sandbox that waits at block for
// whatever is to run in it.
type cell struct {
	bwrap   int // the outer bubblewrap, which ends once the process is known
	pid     int // of the process, 0: it is not there yet
	pidfd   int
	control int // to the interpreter, or with what bubblewrap says; -1: there is none
	block   int // -1: an interpreter waits
	parked  []string
	streams [3]int // our ends
	dirs    [2]int // work and output, 0: not open yet
	mounts  int    // its namespace, likewise: what takes it down is the cell's end, and not the script's
	err     error  // why it is of no use
	told    bool   // that there is an err, if there is one
}

// number is the uid of the scripts, 0: the keeper's own.
func (b *box) number() int {
	if b.uid == nil {
		return 0
	}
	return b.uid.Number
}

// polls appends what the cell waits for: its process, or that one's end.
func (b *box) polls(fds []unix.PollFd) []unix.PollFd {
	switch c := b.cell; {
	case c.waits():
		return append(fds, unix.PollFd{Fd: int32(c.control), Events: unix.POLLIN})
	case c.err == nil:
		return append(fds, unix.PollFd{Fd: int32(c.pidfd), Events: unix.POLLIN})
	}
	return fds
}

// work sees to the cell. It reports whether its worker is to hear of it.
func (b *box) work() bool {
	c := b.cell
	switch {
	case c.waits() && readable(c.control):
		c.hear()
		return true
	case c.err == nil && c.pid != 0 && readable(c.pidfd):
		c.err = errors.New("a sandbox has ended before it had a script")
		return true
	}
	first := c.err != nil && !c.told
	c.told = true
	return first
}

// readable reports whether there is something to be read.
func readable(fd int) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0
}

// begin runs a script in the cell.
func (b *box) begin(s Start, files [3]int) *job {
	c := b.cell
	j := &job{
		Start: s, cell: c, pid: c.pid, pidfd: c.pidfd, began: boottime(), group: b.group, stdin: feed{pipe: c.streams[0], last: !s.Stdin},
		out: [2]capture{{pipe: c.streams[1], file: files[0]}, {pipe: c.streams[2], file: files[1]}},
	}
	b.cell, c.pidfd, c.streams = nil, -1, [3]int{-1, -1, -1} // the job's now
	err := c.err
	if err == nil && b.group != nil {
		j.ooms, err = b.group.OOMKills()
	}
	if err == nil {
		err = c.begin(s)
	}
	if err != nil {
		j.end, j.exited, j.exit.Trouble = NotStarted, true, err.Error()
		j.exit.Errno = uint32(unix.EIO)
	}
	j.stdin.flush()
	return j
}

// park has a cell made with an interpreter that waits for a script, or, where
// there is none that can, one that is replaced for every script.
func (b *box) park() {
	if len(b.Park) == 0 {
		b.cell = b.held(Hold{Argv: []string{"/usr/bin/true"}})
	} else {
		b.cell = b.parked()
	}
}

// hold has another made, in which nothing runs yet.
func (b *box) hold(h Hold) {
	b.cell.dismiss()
	b.cell = b.held(h)
}

func (b *box) parked() *cell {
	c := &cell{pidfd: -1, block: -1, control: -1, parked: b.Park, streams: [3]int{-1, -1, -1}}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		theirs := os.NewFile(uintptr(pair[1]), "control")
		defer theirs.Close()
		c.control = pair[0]
		if err = ahead.Program(b.Program).Send(descriptor(c.control)); err == nil {
			err = b.start(c, sandbox.Start{Command: ahead.Command(b.Park, 3), Env: b.Env, Files: []*os.File{theirs}})
		}
	}
	c.err = err
	return c
}

func (b *box) held(h Hold) *cell {
	c := &cell{pidfd: -1, block: -1, control: -1, streams: [3]int{-1, -1, -1}}
	var block, info [2]int
	err := errors.Join(unix.Pipe2(block[:], unix.O_CLOEXEC), unix.Pipe2(info[:], unix.O_CLOEXEC))
	if err == nil {
		blocked, told := os.NewFile(uintptr(block[0]), "block"), os.NewFile(uintptr(info[1]), "info")
		defer blocked.Close()
		defer told.Close()
		c.block, c.control = block[1], info[0]
		err = b.start(c, sandbox.Start{Command: h.Argv, Env: h.Env, Block: blocked, Info: told}, h.Devices...)
	}
	c.err = err
	return c
}

// start starts the sandbox of a cell.
func (b *box) start(c *cell, s sandbox.Start, devices ...string) error {
	if err := b.prepare(&s); err != nil {
		return err
	}
	config := b.Config
	config.Devices = slices.Concat(config.Devices, devices)
	cmd, err := config.Command(s)
	if err != nil {
		return err
	}
	defer cmd.Close()
	var theirs [3]int
	if theirs, err = c.pipes(); err != nil {
		return err
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: cmd.Env, Files: []uintptr{uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2])}, Sys: &syscall.SysProcAttr{},
	}
	for _, f := range cmd.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	fork := func() (err error) {
		c.bwrap, err = syscall.ForkExec(cmd.Path, cmd.Argv, attr)
		return err
	}
	if b.group == nil {
		err = fork()
	} else {
		err = b.group.Start(attr.Sys, fork)
	}
	for _, fd := range theirs {
		unix.Close(fd)
	}
	return err
}

// prepare sees to the root that the sandbox is to have. What the host has may
// have changed since the last one.
func (b *box) prepare(s *sandbox.Start) error {
	folder, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fdFolder)) // an adopter may have moved it
	if err != nil {
		return err
	}
	s.UID, s.Root = b.number(), folder+"/"+rootName
	if b.root != nil && !b.root.Current() {
		err, b.root = b.root.Close(), nil
	}
	if b.root == nil && err == nil {
		b.root, err = b.Config.MakeRoot(s.Root, sandbox.Start{UID: s.UID, Socket: folder + "/" + socketsName})
	}
	if err == nil {
		err = b.root.Renew()
	}
	return err
}

// pipes makes the streams and returns the script's ends.
func (c *cell) pipes() (theirs [3]int, err error) {
	for i := range theirs {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return theirs, err
		}
		ours := 0
		if i == 0 {
			ours = 1
		}
		c.streams[i], theirs[i] = p[ours], p[1-ours]
		unix.SetNonblock(c.streams[i], true)
	}
	return theirs, nil
}

// A descriptor writes to and reads from one.
type descriptor int

// Write is that of [io.Writer].
func (d descriptor) Write(p []byte) (int, error) { return unix.Write(int(d), p) }

// Read is that of [io.Reader]. It reads on when it is interrupted.
func (d descriptor) Read(p []byte) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = unix.Read(int(d), p)
	}
	if n == 0 && err == nil {
		err = errors.New("it has ended")
	}
	return max(n, 0), err
}

// waits reports whether the process is yet to say that it is there.
func (c *cell) waits() bool { return c.err == nil && c.pid == 0 }

// hear takes in that it is.
func (c *cell) hear() {
	if c.err = c.meet(); c.err == nil {
		c.err = c.enter()
	}
	if c.err != nil {
		said := make([]byte, 1024)
		n, _ := descriptor(c.streams[2]).Read(said)
		c.err = fmt.Errorf("starting a sandbox: %w %s", c.err, bytes.TrimSpace(said[:n]))
	}
}

// enter opens what the worker needs of the sandbox. What then is left of
// bubblewrap is not needed.
func (c *cell) enter() (err error) {
	if c.pidfd, err = unix.PidfdOpen(c.pid, 0); err != nil {
		return fmt.Errorf("it has ended: %w", err)
	}
	if err = c.openDirs(); err == nil {
		c.mounts, err = unix.Open("/proc/"+strconv.Itoa(c.pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	unix.Kill(c.bwrap, unix.SIGKILL)
	unix.Wait4(c.bwrap, nil, 0, nil)
	c.bwrap = 0
	return err
}

// openDirs opens the directories of a sandbox once it has its own root, which
// an interpreter that is up has.
func (c *cell) openDirs() error {
	root := "/proc/" + strconv.Itoa(c.pid) + "/root"
	for begin := boottime(); ; time.Sleep(200 * time.Microsecond) {
		var host, own unix.Stat_t
		err := errors.Join(unix.Stat("/", &host), unix.Stat(root, &own))
		for i, dir := range []string{sandbox.WorkDir, sandbox.OutputDir} {
			const flag = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
			if err == nil && (host.Dev != own.Dev || host.Ino != own.Ino) {
				c.dirs[i], err = unix.Open(root+dir, flag, 0)
			}
		}
		switch {
		case err == nil && c.dirs[1] > 0:
			return nil
		case readable(c.pidfd) || boottime()-begin > startLimit:
			return fmt.Errorf("it did not come up: %w", err)
		}
		c.closeDirs()
	}
}

// meet learns the number of the process.
func (c *cell) meet() (err error) {
	if c.block < 0 {
		c.pid, err = ahead.Ready(descriptor(c.control))
		return err
	}
	said := make([]byte, 256) // {"child-pid": 7, …}, in one write
	n, err := descriptor(c.control).Read(said)
	if err != nil {
		return err
	}
	_, number, _ := bytes.Cut(said[:n], []byte(`"child-pid": `))
	_, err = fmt.Sscanf(string(number), "%d", &c.pid)
	return err
}

// begin lets the script run.
func (c *cell) begin(s Start) (err error) {
	if c.block >= 0 {
		_, err = unix.Write(c.block, []byte{1})
	} else {
		n := len(c.parked)
		err = ahead.Script{Command: c.parked, Name: s.Argv[n], Args: s.Argv[n+1:], Env: s.Env, Dir: s.Dir}.Send(descriptor(c.control))
	}
	for _, fd := range []int{c.block, c.control} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	c.block, c.control = -1, -1
	return err
}

// dismiss ends a cell that had no script. Where all of it is one process, that
// dies while the next is made; the next job's reap meets it.
func (c *cell) dismiss() {
	if c.pidfd < 0 {
		c.discard()
		return
	}
	unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
	c.close()
}

// discard ends whatever there is of a cell.
func (c *cell) discard() {
	killAll()
	c.close()
}

func (c *cell) close() {
	for _, fd := range append([]int{c.block, c.control, c.pidfd}, c.streams[:]...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	c.closeDirs()
}

func (c *cell) closeDirs() {
	for _, fd := range []*int{&c.dirs[0], &c.dirs[1], &c.mounts} {
		if *fd > 0 {
			unix.Close(*fd)
			*fd = 0 // never a descriptor of ours
		}
	}
}
