//go:build linux

package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"modulate/workerd/sandbox"
)

// A Program is what runs as a keeper: a binary whose main is [Main], where it
// is called [Name].
type Program struct{ Path string }

// FindProgram returns the keeper beside the binary that runs now, or else that
// binary itself, which must call [Main] where [Called] says so.
func FindProgram() (Program, error) {
	self, err := os.Executable()
	if err != nil {
		return Program{}, fmt.Errorf("looking for %s: %w", Name, err)
	}
	beside := filepath.Join(filepath.Dir(self), Name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return Program{Path: beside}, nil
	}
	return Program{Path: self}, nil
}

// errNoKeeper: a program that was started as a keeper and does not know it must
// not start others, which would not either.
var errNoKeeper = errors.New("this binary does not become a keeper when it is called " + Name + ": its main is to call keeper.Main")

// environment is all that a keeper has: its memory is to stay small.
var environment = []string{"GOMAXPROCS=1", "GOTRACEBACK=none", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Start starts a keeper over a folder. hold, which may be nil, stays open as
// long as it lives.
//
// With a box its scripts run in sandboxes: see [Client.Cell]. With a nursery it
// forks for those that [Client.Forks], if it can.
func (p Program) Start(f *Folder, hold *os.File, b *Box, n *Nursery) (*Client, error) {
	if Called(os.Args) {
		return nil, errNoKeeper
	}
	// What this process was started with besides its streams is not for keepers,
	// which may outlive whoever waits for it to be closed.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("starting a keeper: %w", os.NewSyscallError("close_range", err))
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	defer theirs.Close()
	nursery, err := n.open()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	cmd, err := p.command(f, theirs, nursery.socket(), hold)
	if err == nil {
		if b != nil {
			cmd.SysProcAttr = sandbox.Clone(os.Geteuid(), os.Getegid())
			if os.Geteuid() != 0 { // it mounts, in its namespace; sandbox.Enter passes that on to nobody
				cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
			}
		}
		err = cmd.Start()
		for _, f := range cmd.ExtraFiles[1:3] {
			f.Close()
		}
	}
	if err != nil {
		ours.Close()
		nursery.close()
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	nursery.start(cmd.Process.Pid) // both come up at once
	c := newClient(f, ours, cmd, nursery)
	_, err = c.await()
	if nursery.await(); err != nil {
		c.Close()
		return nil, fmt.Errorf("starting a keeper: %w", err)
	}
	if b != nil {
		c.send(kindBox, b.pack())
	}
	return c, nil
}

// command is the process to be started.
func (p Program) command(f *Folder, conn, nursery, hold *os.File) (*exec.Cmd, error) {
	listener, err := listen(f.Dir)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(f.Dir)
	if err != nil {
		listener.Close()
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: p.Path, Args: []string{Name}, Dir: "/", Env: environment,
		ExtraFiles:  []*os.File{conn, dir, listener, nursery, hold}, // nil: it is closed
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID},
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	return cmd, nil
}

// Probe reports why keepers cannot be had here, nil: they can.
func (p Program) Probe(dir string) error {
	f, err := MakeFolder(dir)
	if err != nil {
		return err
	}
	c, err := p.Start(f, nil, nil, nil)
	if err != nil {
		f.Close()
		return err
	}
	c.Close()
	return nil
}

// listen makes the socket of a folder, whose path may be longer than the
// address of a socket.
func listen(dir string) (*os.File, error) {
	var l *net.UnixListener
	err := byShortPath(dir, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

// byShortPath calls do with a path of the folder's socket that is short.
func byShortPath(dir string, do func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return do("/proc/self/fd/" + strconv.Itoa(fd) + "/" + socketName)
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "worker")
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// Called reports whether a binary was started as a keeper, by its argv.
func Called(argv []string) bool { return len(argv) > 0 && argv[0] == Name }
