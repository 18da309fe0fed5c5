package sqlite

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// turn is the file FILE-turn, which the processes on a store share. Nothing in
// it needs to survive a crash of the machine.
//
// Its lock makes them take turns: who wants to write takes it until SQLite has
// let it begin. SQLite's own waiting sleeps and tries again, so that a process
// that writes all the time would starve the others. The lock is a courtesy: who
// waits too long for it goes on without.
//
// Its first eight bytes, which every process has mapped into its memory, are
// the generation: by it a process knows without a system call that nobody else
// has written. It is odd while a commit is under way, and each commit makes it
// greater. It is changed by compare-and-swap alone: who has committed says so
// only after SQLite has given up the write lock.
type turn struct {
	f   *os.File
	mem []byte // the file's first page
}

// courtesy is how long a writer waits for its turn before it goes on without.
const courtesy = 250 * time.Millisecond

func openTurn(path string) (*turn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	t := &turn{f: f}
	if err := t.mapPage(); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %s: %w", path, err), t.Close())
	}
	return t, nil
}

// mapPage maps the first page, which is written before so that it has a place
// on the disk: to touch it can then not fail for want of room.
func (t *turn) mapPage() error {
	if err := syscall.Flock(int(t.f.Fd()), syscall.LOCK_EX); err != nil { // what is there already is kept
		return err
	}
	defer syscall.Flock(int(t.f.Fd()), syscall.LOCK_UN)
	size := os.Getpagesize()
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if have := info.Size(); have < int64(size) {
		if _, err := t.f.WriteAt(make([]byte, int64(size)-have), have); err != nil {
			return err
		}
	}
	t.mem, err = syscall.Mmap(int(t.f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	return err
}

// Close gives up the lock if it is held. The generation must not be looked at
// any more.
func (t *turn) Close() error {
	var err error
	if t.mem != nil {
		err = syscall.Munmap(t.mem)
	}
	return errors.Join(err, t.f.Close())
}

// generation is where the generation is.
func (t *turn) generation() *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&t.mem[0]))
}

// take waits for the turn; the returned function ends it.
func (t *turn) take() (end func()) {
	fd := int(t.f.Fd())
	over := time.Now().Add(courtesy)
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, time.Millisecond) {
		if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return func() { _ = syscall.Flock(fd, syscall.LOCK_UN) }
		}
		if time.Now().After(over) {
			return func() {}
		}
		time.Sleep(wait)
	}
}
