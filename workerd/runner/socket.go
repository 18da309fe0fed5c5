package runner

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path of a socket. The address of a unix socket
// has room for 104 bytes on macOS and 108 on Linux, the final zero included
// (unix(7)).
const maxSocketPath = 100

// listenAt makes a socket at path, in place of one that nobody serves any more:
// for its directory's owner alone or, where all who can come there may, for
// everyone.
func listenAt(path string, everyone bool) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l *net.UnixListener
	err := byShortPath(path, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it goes with its directory
	mode := os.FileMode(0o700)
	if everyone {
		mode = 0o777
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// A door is a socket that is made once and serves one job after the other,
// where all of a job is dead before the next begins: making one and removing it
// takes up to 0.4 ms (see [Spares]).
type door struct {
	l    *net.UnixListener
	file fs.FileInfo
	out  atomic.Bool // lent, and not closed yet
}

// newDoor is listenAt for a door.
func newDoor(path string, everyone bool) (*door, error) {
	l, err := listenAt(path, everyone)
	if err != nil {
		return nil, err
	}
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &door{l: l, file: file}, nil
}

// lend returns the listener of one job. Closing it ends its Accept.
func (d *door) lend() net.Listener {
	d.out.Store(true)
	return &lent{UnixListener: d.l, door: d}
}

type lent struct {
	*net.UnixListener
	door *door
}

// Close implements [net.Listener].
func (l *lent) Close() error {
	err := l.SetDeadline(time.Unix(1, 0)) // Accept returns
	l.door.out.Store(err != nil)
	return err
}

// back makes the door ready for the next job: whoever of the last one still
// waits to be let in is sent away. False: it can be used no more.
func (d *door) back() bool {
	conn, err := d.l.SyscallConn()
	if err != nil || d.out.Load() {
		return false
	}
	alone := false
	err = conn.Control(func(fd uintptr) {
		for {
			waiting, _, err := unix.Accept(int(fd))
			if err != nil { // it does not block; with no descriptor left somebody may wait
				alone = err == unix.EAGAIN
				return
			}
			unix.Close(waiting)
		}
	})
	return err == nil && alone && d.l.SetDeadline(time.Time{}) == nil
}

// at reports whether path is this door.
func (d *door) at(path string) bool {
	file, err := os.Lstat(path)
	return err == nil && os.SameFile(file, d.file) && file.Mode() == d.file.Mode()
}

// Close ends it. A nil d is no door.
func (d *door) Close() error {
	if d == nil {
		return nil
	}
	return d.l.Close()
}
