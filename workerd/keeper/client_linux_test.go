package keeper

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestMain runs this binary as a keeper where it is called one.
func TestMain(m *testing.M) {
	if Called(os.Args) {
		syscall.Exit(Main()) // not os.Exit, where the race detector waits a second
	}
	os.Exit(m.Run())
}

// A keeper whose worker is killed before they have met has nothing to keep.
func TestAKeeperThatNobodyMeetsEnds(t *testing.T) {
	f, err := MakeFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	cmd, err := Program{Path: os.Args[0]}.command(f, theirs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lives := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer lives.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("it does not end: %v", err)
	}
}

// Only a keeper that is dead is given up for dead: the script of one that is
// silent may run, and must not be started elsewhere before its lease is over.
func TestASilentKeeperIsNotGone(t *testing.T) {
	if testing.Short() {
		t.Skip("it is waited for; not for short tests")
	}
	t.Parallel()
	f, err := MakeFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := Adopt(f); !errors.Is(err, ErrGone) {
		t.Errorf("nobody listens: %v, want ErrGone", err)
	}
	socket, err := listen(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if _, _, err := Adopt(f); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("somebody listens and is silent: %v", err)
	}
}
