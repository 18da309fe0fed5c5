package runner_test

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
)

// loseRights makes the calling goroutine, for the rest of its life, one for
// which file modes count, also when the test is run by root.
func loseRights(t *testing.T) {
	runtime.LockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		t.Error(err)
	}
	data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&head, &data[0]); err != nil {
		t.Error(err)
	}
}

// A script gets its three streams and nothing else of what the worker has
// open, not even what the worker inherited without close-on-exec.
func (s suite) Descriptors(t *testing.T) {
	fd, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := s.run(t, job("sh", "ls /proc/self/fd", func(j *runner.Job) { j.Stdin = strings.NewReader("") }))
	good(t, r)
	if got := strings.Fields(r.out); !slices.Equal(got, []string{"0", "1", "2", "3"}) { // 3 is the listing itself
		t.Errorf("open are %q", got)
	}
}
