package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// uidDir holds a locked file for each uid in use. It is gone after a restart.
const uidDir = "/run/modulate/uid"

// A UID is a user that one sandbox at a time has, on this whole host. It ends
// with the process that leased it.
type UID struct {
	Number int
	lock   *os.File
}

// LeaseUID takes a uid that nobody has. Which is left to chance, so that one
// whose last processes are still dying is not taken next.
func LeaseUID() (*UID, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("leasing a uid: only root has uids to give")
	}
	if err := os.MkdirAll(uidDir, 0o700); err != nil {
		return nil, fmt.Errorf("leasing a uid: %w", err)
	}
	const count = LastUID - FirstUID + 1
	first := rand.IntN(count)
	for i := range count {
		number := FirstUID + (first+i)%count
		lock, err := openLocked(filepath.Join(uidDir, strconv.Itoa(number)), os.O_CREATE)
		if err == nil {
			return &UID{number, lock}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("leasing a uid: %w", err)
		}
	}
	return nil, fmt.Errorf("leasing a uid: all %d are in use", count)
}

// Close gives the uid back. No process may have it any more.
func (u *UID) Close() error {
	return errors.Join(os.Remove(u.lock.Name()), u.lock.Close())
}

// openLocked opens a file, or makes it where flags say so, and locks it.
// EWOULDBLOCK: another has it. fs.ErrNotExist: another has just given it up.
func openLocked(name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockOpen(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockOpen locks what is open, if it still has its name.
func lockOpen(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(f.Name())
	if err == nil && !os.SameFile(locked, there) {
		err = fs.ErrNotExist
	}
	return err
}
