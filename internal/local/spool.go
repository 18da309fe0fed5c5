package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A Spool is a worker's folder for outcomes that wait for the store. It is the
// worker's own for as long as the process lives.
type Spool struct {
	Dir  string
	lock *Lock
}

// spoolLock is the name of a spool's lock.
const spoolLock = "lock"

// Spool takes the spool of the worker with that name, and moves into it what
// workers that are gone have left in theirs. A name that another process uses
// is an error. A lock may outlast its process for a moment, in a child that is
// just being started; so a refusal counts only when it lasts a second.
func (l *Local) Spool(worker string) (*Spool, error) {
	const tries, pause = 20, 50 * time.Millisecond
	for try := 1; ; try++ {
		s, err := l.spool(worker)
		if !errors.Is(err, errLocked) {
			return s, err
		}
		if try == tries {
			return nil, fmt.Errorf("a worker called %s runs already on %s: choose another name", worker, l.dir)
		}
		time.Sleep(pause)
	}
}

// spool is Spool at once. errLocked: the name is in use.
func (l *Local) spool(worker string) (*Spool, error) {
	root := filepath.Join(l.dir, "spool")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("making the spools: %w", err)
	}
	all, err := lockAll(root)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	dir := filepath.Join(root, worker)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the spool: %w", err)
	}
	own, err := lock(filepath.Join(dir, spoolLock))
	if err != nil {
		return nil, err
	}
	s := &Spool{Dir: dir, lock: own}
	if err := s.adopt(root); err != nil {
		own.Close()
		return nil, err
	}
	return s, nil
}

// lockAll waits for the lock under which spools are made, adopted and removed.
func lockAll(root string) (*Lock, error) {
	f, err := openLock(filepath.Join(root, spoolLock))
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the spools: %w", err), f.Close())
	}
	return &Lock{file: f}, nil
}

// Close gives the spool up. If it is empty it is removed.
func (s *Spool) Close() error {
	all, err := lockAll(filepath.Dir(s.Dir))
	if err != nil {
		return errors.Join(err, s.lock.Close())
	}
	defer all.Close()
	empty, err := isEmpty(s.Dir)
	if err == nil && empty {
		err = os.RemoveAll(s.Dir)
	}
	return errors.Join(err, s.lock.Close())
}

// adopt moves here what stands in the spools that nobody holds, and removes
// them.
func (s *Spool) adopt(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("reading the spools: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if dir == s.Dir || !e.IsDir() {
			continue
		}
		left, err := lock(filepath.Join(dir, spoolLock))
		if err != nil {
			continue // held
		}
		err = moveAll(dir, s.Dir)
		if err == nil {
			err = os.RemoveAll(dir)
		}
		left.Close()
		if err != nil {
			return fmt.Errorf("adopting the spool %s: %w", dir, err)
		}
	}
	return nil
}

// moveAll moves the files in from to the directory to, but for the lock.
func moveAll(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == spoolLock {
			continue
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// isEmpty reports whether nothing but the lock is in dir.
func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return len(names) < 2, nil
}
