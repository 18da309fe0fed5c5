package keeper

import (
	"errors"
	"testing"
)

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
