// Package spool gives each worker of a host a folder of its own, for outcomes
// that wait for the store.
//
//	ROOT/lock      held while a folder is made, adopted or removed
//	ROOT/W/        the folder of worker W
//	ROOT/W/lock    held by W
//	ROOT/W/k.…     of the keepers of W: see [Keepers]
//
// Workers of one store share a root: what one that is gone has left, the next
// one to start settles. Only what its keepers keep is for a worker of the same
// machine.
package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modulate/internal/lock"
)

// A Spool is a worker's folder. It is the worker's own for as long as the
// process lives.
type Spool struct {
	Dir  string
	lock *os.File
}

// lockName is the name of a lock.
const lockName = "lock"

// keepers is what the names of the folders of keepers start with.
const keepers = "k."

// Keepers is what the names of the folders of a machine's keepers start with.
// Those of no machine end with their worker.
func Keepers(machine string) string { return keepers + machine + "." }

// Open takes the spool below root of the worker with that name, and moves into
// it what workers that are gone have left in theirs, but for the folders of
// other machines' keepers. A name that another
// process uses is an error. A lock may outlast its process for a moment, in a
// child that is just being started; so a refusal counts only when it lasts a
// second.
func Open(root, worker, machine string) (*Spool, error) {
	const tries, pause = 20, 50 * time.Millisecond
	for try := 1; ; try++ {
		s, err := open(root, worker, machine)
		if !errors.Is(err, lock.ErrHeld) {
			return s, err
		}
		if try == tries {
			return nil, fmt.Errorf("a worker called %s runs already and has its spool in %s: choose another name", worker, root)
		}
		time.Sleep(pause)
	}
}

// open is Open at once. lock.ErrHeld: the name is in use.
func open(root, worker, machine string) (*Spool, error) {
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
	own, err := lock.Take(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	s := &Spool{Dir: dir, lock: own}
	if err := s.adopt(root, machine); err != nil {
		own.Close()
		return nil, err
	}
	return s, nil
}

// lockAll waits for the lock under which spools are made, adopted and removed.
func lockAll(root string) (*os.File, error) { return lock.Wait(filepath.Join(root, lockName)) }

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

// adopt moves here what stands in the spools that nobody holds and is for this
// machine, and removes those that are empty then.
func (s *Spool) adopt(root, machine string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("reading the spools: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if dir == s.Dir || !e.IsDir() {
			continue
		}
		left, err := lock.Take(filepath.Join(dir, lockName))
		if err != nil {
			continue // held
		}
		err = moveAll(dir, s.Dir, machine)
		if empty, look := isEmpty(dir); err == nil && empty && look == nil {
			err = os.RemoveAll(dir)
		}
		left.Close()
		if err != nil {
			return fmt.Errorf("adopting the spool %s: %w", dir, err)
		}
	}
	return nil
}

// moveAll moves what is in from to the directory to, but for the lock and for
// the keepers of other machines.
func moveAll(from, to, machine string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == lockName:
			continue
		case strings.HasPrefix(name, Keepers("")): // it has ended with its worker
			if err := os.RemoveAll(filepath.Join(from, name)); err != nil {
				return err
			}
			continue
		case strings.HasPrefix(name, keepers) && !strings.HasPrefix(name, Keepers(machine)):
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
