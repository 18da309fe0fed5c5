package runner

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A door is not lent again while somebody of the last job may wait at it: where
// there is no descriptor left to let him in, it cannot be known.
func TestADoorWithSomebodyAtItIsNotLentAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	d, err := newDoor(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.lend().Close(); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	undo := exhaust(t)
	back := d.back()
	if undo(); back {
		t.Error("it is lent again, and one of the last job waits at it")
	}
	if !d.back() {
		t.Error("with descriptors it is of no use either")
	}
}

// exhaust has this process find no descriptor, until it is undone.
func exhaust(t *testing.T) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	free, err := os.Open(os.DevNull) // the lowest that is free (open(2))
	if err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: uint64(free.Fd()), Max: before.Max}
	free.Close()
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			t.Error(err)
		}
	}
}
