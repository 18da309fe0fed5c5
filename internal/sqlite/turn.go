package sqlite

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// turn is the file FILE-turn, which the processes on a store share. Nothing in
// it needs to survive a crash of the machine.
//
// Its lock makes them take turns: who wants to write takes it until SQLite has
// let it begin. SQLite's own waiting sleeps and tries again, so that a process
// that writes all the time would starve the others. The lock is a courtesy: who
// waits too long for it goes on without.
//
// Its first eight bytes are the generation, by which a process knows at the
// price of one small read that nobody else has written: it is odd while a
// commit is under way, and each commit makes it greater. Only who holds
// SQLite's write lock changes it.
type turn struct{ f *os.File }

// courtesy is how long a writer waits for its turn before it goes on without.
const courtesy = 250 * time.Millisecond

func openTurn(path string) (*turn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &turn{f}, nil
}

// Close closes the file and gives up the lock if it is held.
func (t *turn) Close() error { return t.f.Close() }

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

// generation reads the generation.
func (t *turn) generation() (uint64, error) {
	var b [8]byte
	_, err := t.f.ReadAt(b[:], 0)
	if err == io.EOF {
		return 0, nil // nobody has written yet
	}
	if err != nil {
		return 0, fmt.Errorf("reading the generation: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// setGeneration writes the generation.
func (t *turn) setGeneration(g uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], g)
	if _, err := t.f.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("writing the generation: %w", err)
	}
	return nil
}
