// Package lock locks files for as long as a process lives, however it ends:
// flock(2), which is advisory.
package lock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrHeld: another process has the lock.
var ErrHeld = errors.New("locked by another process")

// Take locks the file, which is made if it is not there. Closing it gives the
// lock up. ErrHeld.
func Take(path string) (*os.File, error) { return open(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// Wait is Take, but waits for whoever has the lock.
func Wait(path string) (*os.File, error) { return open(path, syscall.LOCK_EX) }

// Held reports whether a process has the lock. Those who ask at the same time
// do not take each other for it.
func Held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

func open(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	err = flock(f, how)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", path, ErrHeld)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

// flock is flock(2), over interruptions.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
