package runner

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A Workplace is a directory in which one process keeps what its jobs need
// while they run: Dir is for [Exec.Dir]. A process that is killed leaves it
// behind; its lock ends with the process, and whoever opens a workplace beside
// it removes it.
type Workplace struct {
	Dir  string
	lock *os.File
}

// workplacePrefix is what the name of every workplace starts with.
const workplacePrefix = "modulate-jobs-"

// workplaceRoom is the longest directory in which the sockets of jobs have
// paths that fit into an address.
const workplaceRoom = maxSocketPath - len("/"+workplacePrefix+"0123456789abc/modulate-0123456789abc/"+socketName)

// OpenWorkplace makes a workplace in parent ("": the system's temporary
// directory, or /tmp where its path is too long), and removes there those of this user's processes that are gone.
func OpenWorkplace(parent string) (*Workplace, error) {
	if parent == "" && len(os.TempDir()) > workplaceRoom {
		parent = "/tmp"
	}
	parent, err := tempDir(parent)
	if err != nil {
		return nil, fmt.Errorf("making the jobs' directory: %w", err)
	}
	if err := clearWorkplaces(parent); err != nil {
		return nil, fmt.Errorf("removing what a killed worker left in %s: %w", parent, err)
	}
	for {
		dir := filepath.Join(parent, workplacePrefix+strings.ToLower(rand.Text()[:13]))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making the jobs' directory: %w", err)
		}
		lock, err := lockDir(dir)
		if err == nil {
			return &Workplace{Dir: dir, lock: lock}, nil
		}
		// Somebody who clears may have been faster than the lock.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the jobs' directory: %w", err)
		}
	}
}

// Close removes the workplace, unless jobs were left in it: their keepers hold
// its lock. Those of which adopted jobs have come to their end go with it.
func (w *Workplace) Close() error {
	err := os.Remove(w.Dir)
	if errors.Is(err, syscall.ENOTEMPTY) {
		err = nil
	}
	return errors.Join(err, w.lock.Close(), clearWorkplaces(filepath.Dir(w.Dir)))
}

// Lock is what holds the workplace: a process that has it open too keeps it
// from being removed.
func (w *Workplace) Lock() *os.File { return w.lock }

// clearWorkplaces removes the workplaces in parent that nobody holds.
func clearWorkplaces(parent string) error {
	found, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range found {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), workplacePrefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		if info, err := os.Lstat(dir); err != nil || !own(info) {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // it is held, or just being removed
		}
		errs = append(errs, jobDir(dir).remove(), lock.Close())
	}
	return errors.Join(errs...)
}

// own reports whether a file is this user's.
func own(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}

// lockDir takes the lock of a directory. EWOULDBLOCK: another has it.
// fs.ErrNotExist: it is gone, perhaps since it was locked.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	locked, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Lstat(dir); err == nil && !os.SameFile(locked, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
