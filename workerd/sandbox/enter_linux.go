package sandbox

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Clone returns how a daemon starts a keeper of sandboxes: as the first
// process of a pid namespace, with whose end the kernel ends all in it, and
// with mounts of its own. Who is not root needs a user namespace for that.
func Clone(uid, gid int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	return attr
}

// Enter is what a process that was started by [Clone] does first. It gets a
// /proc of its namespace, which is the one that its sandboxes show; nothing
// that it mounts is seen outside. What runs under its user cannot look into it
// (ptrace(2), PR_SET_DUMPABLE). All that it starts has the rlimits of a script,
// and none of the descriptors that are open now. It is called on the thread
// that will start them.
func Enter(l Limits) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("entering a namespace: parting its mounts from the host's: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("entering a namespace: mounting its /proc: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("entering a namespace: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("entering a namespace: %w", err)
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil { // since Linux 5.11
		return fmt.Errorf("entering a namespace: keeping descriptors back: %w", err)
	}
	return limit(l)
}

// The rlimits of a script that nobody configures.
const (
	maxFiles   = 65536   // open descriptors; what many a server is given
	maxSignals = 16384   // queued
	maxQueue   = 1 << 20 // bytes in POSIX message queues
)

// limit sets the rlimits of this process and of what it starts. None is ever
// raised.
func limit(l Limits) error {
	want := map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: maxFiles, unix.RLIMIT_MSGQUEUE: maxQueue,
		unix.RLIMIT_SIGPENDING: maxSignals, unix.RLIMIT_MEMLOCK: 64 << 20,
	}
	if l.Scratch > 0 {
		want[unix.RLIMIT_FSIZE] = uint64(l.Scratch)
	}
	for which, most := range want {
		var r unix.Rlimit
		if err := unix.Getrlimit(which, &r); err != nil {
			return fmt.Errorf("reading rlimit %d: %w", which, err)
		}
		r.Max = min(r.Max, most)
		r.Cur = r.Max
		if err := syscall.Setrlimit(which, &syscall.Rlimit{Cur: r.Cur, Max: r.Max}); err != nil {
			return fmt.Errorf("setting rlimit %d: %w", which, err)
		}
	}
	return nil
}
