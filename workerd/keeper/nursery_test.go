//go:build linux

package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What has no program is replaced as soon as its interpreter is there, and where
// that has failed, when it is another, or after a while: not for each keeper.
func TestNurseriesWithoutAProgramAreTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "python3")
	write := func() {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	is := func(n *Nursery, when string, want bool) {
		t.Helper()
		if n.program != nil || n.Current() != want {
			t.Errorf("%s: a program of %d bytes, current %t, want none, %t", when, len(n.program), !want, want)
		}
	}
	away := NewNursery([]string{path, "-S"})
	is(away, "away", true)
	write()
	is(away, "there again", false)
	failed := NewNursery(away.command)
	is(failed, "failed", true)
	failed.made = failed.made.Add(-compileAgain)
	is(failed, "failed long ago", false)
	failed = NewNursery(away.command)
	write()
	is(failed, "another", false)
	failed = NewNursery(away.command)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	is(failed, "removed", false)
	never := NewNursery([]string{"/bin/sh"})
	never.made = never.made.Add(-compileAgain)
	is(never, "no Python", true)
}

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
