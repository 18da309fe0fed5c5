package runner

import (
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// byShortPath calls do with a path of the file that is short enough for a
// socket, whatever its directory's is.
func byShortPath(path string, do func(short string) error) error {
	if len(path) <= maxSocketPath {
		return do(path)
	}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do("/proc/self/fd/" + strconv.Itoa(fd) + "/" + name)
}
