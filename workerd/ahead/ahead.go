// Package ahead starts Python before there is a script for it. A parked
// interpreter is up, says so, and waits; the script that it is then given runs
// as it would by
//
//	python3 FLAGS SCRIPT ARGS…
//
// to the letter, for the interpreter's own function for running a file as
// __main__ runs it, with no frame of ours below it. What then is left of a start
// is one message, and the interpreter's end.
//
// # What whoever parks must do
//
// Start [Command] in the script's sandbox as the script's user, with its limits
// (rlimits, umask, cgroup), in a session of its own, and with descriptors 0, 1
// and 2 that are the script's own already: Python looks at them as it starts,
// and makes its streams of what they are. Descriptor number N is one end of a
// connected stream socket; there is no other.
//
//   - The environment is what every script has (without -S its HOME at least), or
//     empty. For a script whose own differs in what counts from the start the
//     interpreter starts anew (see below).
//   - The working directory is any; the message names the script's.
//   - The flags are of the kind that [Parks] knows. The command itself is an
//     absolute path.
//   - Before it is started [Program.Send] gives the socket what it will run, which
//     [Compile] made once for that command.
//   - [Ready] waits until it is up and tells its process id (as its own pid
//     namespace has it). An end of file instead means that this command cannot
//     be parked, whatever the reason (its stderr may hold it): run the script
//     from cold.
//   - [Script.Send] gives it the script, once, when the script's file and all
//     others are in place. The interpreter closes its end of the socket before the
//     script's first instruction, so that the other end reads an end of file then.
//   - To dismiss it close the socket: it ends with code 0. Until it has its
//     script no signal is to be sent to it but SIGKILL.
//
// # One for many scripts
//
// [Nursery] is the command of an interpreter that is not used up: it forks for
// each script. It is started like a parked one, and says by [Ready] that it is
// up; but its streams are pipes whatever they lead to, its session is its own, and
// it is dismissed by closing the socket. [Fork] gives it the streams of a script,
// pipes too, and one end of another socket; by that the script's own process is
// there as a parked one is: [Ready] tells its process id, [Script.Send] has it go on.
//
// The process is forked by one that ends at once, so that its parent is whoever
// adopts orphans, which is who started the namespace that it is in (or a
// subreaper, prctl(2)); Ready returns when that is so. It has no tie to the
// nursery, which may then die. It leads its session soon after.
//
// # Where it starts anew
//
// What an interpreter must have from its first moment on cannot be given to one
// that is up. It then replaces itself (execve(2)) by the command that the message
// names, in the same process: slower, and the same by construction. So it does
// for an environment with other variables that take effect as a process starts
// (LANG, LC_*, LOCPATH, LD_*, GLIBC_TUNABLES, MALLOC_*; PYTHON* without -E and
// -I; HOME without -S, for site's sake),
// for a script that is a directory or a zip archive, and for one that cannot be
// opened.
//
// # What differs
//
//   - /proc/self/cmdline and /proc/self/environ, which the kernel has from the
//     start: the parked command's. (sys.argv, sys.orig_argv, os.environ and the
//     environment of children are the script's.)
//   - The age, CPU time and page faults of the process; addresses; what of the C
//     library's and of _ctypes is mapped; how soon the garbage collector first runs.
//   - gc.get_objects() and the like find a traceback, a module's namespace and
//     some classes of the parked program.
//   - Scripts of one nursery have the addresses and the secret of str hashes in
//     common: set and hash orders that differ from run to run differ from nursery
//     to nursery.
package ahead

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// source is what a parked interpreter runs.
//
//go:embed park.py
var source []byte

// MaxMessage bounds a message, in bytes: arguments and environment together. A
// submission's are 64 KiB at most; execve(2) takes 128 KiB in one string.
const MaxMessage = 1 << 20

// ErrTooLarge: the arguments and the environment exceed MaxMessage.
var ErrTooLarge = errors.New("arguments and environment are too large")

// flags are those that change nothing about how a script is run: no other
// program than the script's (-c, -m), nothing after it (-i), no line less (-x).
const flags = "BEIOPSbsu"

// Parks reports whether an interpreter and its flags may be parked: a Python by
// its name, with flags of one letter.
func Parks(command []string) bool {
	if len(command) == 0 || !filepath.IsAbs(command[0]) || !strings.HasPrefix(filepath.Base(command[0]), "python") {
		return false
	}
	for _, flag := range command[1:] {
		letters, ok := strings.CutPrefix(flag, "-")
		if !ok || letters == "" || strings.Trim(letters, flags) != "" {
			return false
		}
	}
	return true
}

// Forks reports whether an interpreter and its flags may be a nursery: it may be
// parked, and without site (-S) nothing of the machine's has run in it, such as
// what starts threads or opens files, and would be forked with it.
func Forks(command []string) bool {
	return Parks(command) && slices.ContainsFunc(command[1:], func(flag string) bool { return strings.Contains(flag, "S") })
}

// A Program is what the parked interpreters of one command run.
type Program []byte

// maxProgram bounds a Program, in bytes: an interpreter reads it at once.
const maxProgram = 32 << 10

// compile is run by an interpreter to make its program. It fails where a
// parked one would.
const compile = `import sys
if sys.version_info < (3, 8): sys.exit("it is older than Python 3.8")
import marshal, _ctypes
_ctypes.dlsym(_ctypes.dlopen(None, 2), "PyRun_AnyFileEx")
sys.stdout.buffer.write(marshal.dumps(compile(sys.stdin.buffer.read(), "park.py", "exec")))`

// Compile makes the program of a command that [Parks], by running it: some ten
// milliseconds, where compiling at each start would cost each 2. It is good
// until the interpreter is replaced. An error means that it cannot be parked: it
// is no CPython, older than 3.8, or without _ctypes.
func Compile(ctx context.Context, command []string) (Program, error) {
	cmd := exec.CommandContext(ctx, command[0], append(append([]string{}, command[1:]...), "-c", compile)...)
	cmd.Stdin = bytes.NewReader(source)
	code, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("compiling for %s: %w", command[0], err)
	}
	if len(code) > maxProgram {
		return nil, fmt.Errorf("compiling for %s: %d bytes, at most %d", command[0], len(code), maxProgram)
	}
	return code, nil
}

// Send puts the program into the socket, which holds it until the interpreter
// is up. It is to be called before that is started.
func (p Program) Send(socket io.Writer) error {
	_, err := socket.Write(p)
	return err
}

// Command returns what to start to park command, with the socket at that
// descriptor.
func Command(command []string, descriptor int) []string {
	n := strconv.Itoa(descriptor)
	run := fmt.Sprintf(`exec(__import__("marshal").loads(__import__("posix").read(%s, %d)))`, n, maxProgram)
	return append(append([]string{}, command...), "-c", run, n)
}

// Nursery returns what to start for an interpreter that forks for each script of
// command, which [Forks], with the socket at that descriptor. Namespaces, if there is one, is
// the descriptor of a process's pidfd (pidfd_open(2)), in whose pid namespace the
// scripts are to be, or a pid namespace below; and "user" after it says that it
// has another user namespace as well.
func Nursery(command []string, descriptor int, namespaces ...string) []string {
	return append(append(Command(command, descriptor), "fork"), namespaces...)
}

// Fork has a nursery fork for a script. The descriptors stay the caller's.
func Fork(nursery int, streams [3]int, control int) error {
	return syscall.Sendmsg(nursery, []byte{0}, syscall.UnixRights(streams[0], streams[1], streams[2], control), nil, 0)
}

// Ready returns the process id of a parked interpreter once it waits for its
// script. io.EOF: it has ended.
func Ready(socket io.Reader) (pid int, err error) {
	var line []byte
	for next := make([]byte, 1); len(line) < len("4194304\n"); { // PID_MAX_LIMIT, proc(5)
		if _, err := io.ReadFull(socket, next); err != nil {
			return 0, err
		}
		if next[0] == '\n' {
			return strconv.Atoi(string(line))
		}
		line = append(line, next[0])
	}
	return 0, fmt.Errorf("a parked interpreter says %q instead of its process id", line)
}

// A Script is what a parked interpreter is given to run.
type Script struct {
	Command []string // that it was parked by
	Name    string   // the script's path, absolute or from Dir on; not beginning with "-"
	Args    []string
	Env     []string // NAME=value; of a name that comes twice the first counts
	Dir     string   // its working directory
}

// Send gives the script to a parked interpreter, in one write: the length in
// four bytes, the most significant first, then the directory, the number of
// words that precede the script's name, that of all words, the words and the
// environment, each separated by a zero byte. ErrTooLarge.
func (s Script) Send(socket io.Writer) error {
	words := append(append(append([]string{}, s.Command...), s.Name), s.Args...)
	fields := append([]string{s.Dir, strconv.Itoa(len(s.Command)), strconv.Itoa(len(words))}, words...)
	fields = append(fields, s.Env...)
	for _, field := range fields {
		if strings.Contains(field, "\x00") {
			return fmt.Errorf("%q holds a zero byte", field)
		}
	}
	body := strings.Join(fields, "\x00")
	if len(body) > MaxMessage {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxMessage)
	}
	_, err := socket.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}
