package timerslack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// role names, in the environment, what this binary is to be instead of the tests.
const role = "TIMERSLACK_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "server":
		Widen(os.Args, os.Environ())
		runtime.LockOSThread()
		report("itself")
		start("program")
		Narrow()
		start("program")
		os.Exit(0)
	case "removed", "broken":
		fail(os.Getenv(role))
		os.Exit(0)
	case "program":
		report("started")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// report tells who this is, and the slack of a thread that the runtime has made.
func report(who string) {
	slack := make(chan int)
	go func() { slack <- have() }()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(who, os.Getpid() == leader(), len(os.Args), <-slack, strings.TrimSpace(string(name)))
}

// leader is the process whose number the test was told of.
func leader() (pid int) {
	fmt.Sscan(os.Getenv("TIMERSLACK_PID"), &pid)
	return pid
}

func start(as string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
	}
}

// A server has it on all threads, as the same process of the same name, with the
// same arguments;
// so has what it starts, but for what is started by a thread that is narrow.
func TestWiden(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `TIMERSLACK_PID=$$ exec "$0" a b`, os.Args[0])
	cmd.Env = append(os.Environ(), role+"=server")
	out, err := cmd.CombinedOutput()
	name := filepath.Base(os.Args[0])
	name = name[:min(len(name), 15)] // TASK_COMM_LEN
	want := fmt.Sprintf("itself true 3 %d %[3]s\nstarted false 1 %[1]d %[3]s\nstarted false 1 %[2]d %[3]s\n", wide, narrow, name)
	if err != nil || string(out) != want {
		t.Errorf("got %v,\n%swant\n%s", err, out, want)
	}
}

// few is how many files a shell's programs may open in TestWidenInVain.
const few = 100

// fail is a server whose binary is not there, or no program, when it begins:
// it tells whether it is as before, and the first one's programs too.
func fail(binary string) {
	runtime.LockOSThread()
	err := os.Remove(os.Args[0])
	if binary == "broken" {
		err = errors.Join(err, os.WriteFile(os.Args[0], []byte{0}, 0o700))
	}
	slack, files := have(), limit()
	Widen(os.Args, os.Environ())
	program, err2 := exec.Command("/bin/sh", "-c", "ulimit -n").Output()
	fmt.Println(errors.Join(err, err2), slack == have(), files == limit(), files > few, binary == "broken" || string(program) == fmt.Sprintln(few))
}

func limit() uint64 {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		fmt.Println(err)
	}
	return files.Cur
}

// Where the binary has been moved, or cannot be run, a server goes on with the
// slack and as many files as it had.
func TestWidenInVain(t *testing.T) {
	body, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, binary := range []string{"removed", "broken"} {
		path := filepath.Join(t.TempDir(), "server")
		if err := os.WriteFile(path, body, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", fmt.Sprintf(`ulimit -S -n %d; exec "$0"`, few), path)
		cmd.Env = append(os.Environ(), role+"="+binary)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "<nil> true true true true\n" {
			t.Errorf("%s: %v, %q", binary, err, out)
		}
	}
}

// A thread is what it is about: others keep theirs.
func TestNarrowIsOfOneThread(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	set(wide)
	other := make(chan int)
	go func() {
		runtime.LockOSThread()
		Narrow()
		other <- have()
	}()
	if got := <-other; got != narrow {
		t.Errorf("another thread has %d ns, want %d", got, narrow)
	}
	if got := have(); got != wide {
		t.Errorf("this thread has %d ns, want %d", got, wide)
	}
}
