//go:build linux

package keeper

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// An interpreter forks on until it has done so often, or has ended.
func TestNurseriesAreRenewed(t *testing.T) {
	cmd := exec.Command("/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &forker{Nursery: &Nursery{}, cmd: cmd, up: true}
	for forks, want := range map[int]bool{0: true, mostForks - 1: true, mostForks: false} {
		if f.forks = forks; f.fit() != want {
			t.Errorf("after %d scripts: fit %v", forks, !want)
		}
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if f.forks = 0; f.fit() {
		t.Error("it has ended, and is fit")
	}
	f.end()
}
