package runner

import (
	"errors"
	"net"
	"os"
)

// maxSocketPath is the longest path of a socket. The address of a unix socket
// has room for 104 bytes on macOS and 108 on Linux, the final zero included
// (unix(7)).
const maxSocketPath = 100

// listenAt makes a socket at path, in place of one that nobody serves any more:
// for its directory's owner alone or, where all who can come there may, for
// everyone.
func listenAt(path string, everyone bool) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l net.Listener
	err := byShortPath(path, func(short string) (err error) {
		l, err = net.Listen("unix", short)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it goes with its directory
	mode := os.FileMode(0o700)
	if everyone {
		mode = 0o777
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
