package timerslack

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	wide   = 500_000 // ns, of a server
	narrow = 50_000  // the kernel's default
)

// Widen gives every thread of this process, and of those that it will start, the
// slack of a server. It runs the program again, in the same process, with argv
// and env, and does not return then; it does nothing where that was done, or
// cannot be. It is called before anything is begun.
func Widen(argv, env []string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := have()
	if was >= wide {
		return
	}
	program, err := os.Executable() // by its path: the kernel names the process after that
	if err != nil || unix.Access(program, unix.X_OK) != nil {
		return
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return
	}
	if set(wide); have() < wide { // a thread in real time has none (sched(7)), and never will
		return
	}
	_ = syscall.Exec(program, argv, env)
	// It cannot be run, and Exec has taken back the files that the runtime may
	// have open. With them again, what is started has as many, too: what it would
	// have had the runtime does not know any more.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &files)
	set(was)
}

// Narrow gives this thread, and what it starts, the slack that programs have. It
// is called by who starts what is not ours, on a thread that is locked.
func Narrow() { set(narrow) }

func have() int {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return ns
}

func set(ns int) { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0) }
