// Package runner runs one script under limits: a fresh directory, a scrubbed
// environment, a session of its own, a timeout, and an end for everything it
// started. It knows no promise and no queue.
package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A Job is one execution of one script.
type Job struct {
	Command []string                      // the interpreter and its flags; the script's path and Args follow. Empty: the script itself
	Name    string                        // the script's file name
	Script  func() (io.ReadCloser, error) // its content
	Files   []File                        // laid beside it
	Args    []string
	Env     []string      // NAME=value: all that it sees, but for what the Runner adds (MODULATE_OUTPUT; HOME, PATH and TMPDIR unless they are here)
	Stdin   io.Reader     // nil: empty. An error of it kills the script and is a Failed
	Stdout  io.Writer     // gets the exact bytes, as they are written, by one goroutine; nil: nobody reads them
	Stderr  io.Writer     // likewise, by another goroutine
	Devices []string      // device files that it may open beside the harmless ones, where it is kept from others at all
	Timeout time.Duration // of the run; 0: none
	Grace   time.Duration // between SIGTERM and SIGKILL; 0: DefaultGrace
	// Now, once closed, kills the script at once, also one that is in its
	// grace already: a context keeps its first cause, so that cancelling it
	// again cannot say so. nil: it never does.
	Now <-chan struct{}
	// Collect reads what the script left in MODULATE_OUTPUT, after every
	// process of it is dead and before the directory is removed. It follows
	// nothing that the script planted. It is not called for a script that was
	// Killed, Failed or no executable. nil: nothing is collected.
	Collect func(ctx context.Context, output *os.Root) error
	// Serve is told, before the script starts, where it reaches its worker: the
	// script has the socket's path in MODULATE_SOCKET. Whoever serves closes
	// it. numbers is the path of a file that stays with the job for an adopter,
	// "" where there is none. nil: the script gets no socket.
	Serve func(l net.Listener, numbers string)

	// Note returns what another process needs to know to go on with the job
	// when this one is gone: see [Adopter]. A runner that keeps jobs asks once,
	// on any goroutine, and has it on the disk before the script starts; by an
	// error the run is Failed. nil: the script dies with this process.
	Note func() ([]byte, error)
	// Lease is until when the script may run, where its runner can enforce
	// that without this process. nil: it may as long as this process is there.
	Lease *Lease
	// Leave, once closed, has Run return at once and leave the script to
	// whoever adopts it; only for a job with a Note. nil: it never does.
	Leave <-chan struct{}
}

// DefaultGrace is the Grace of a Job that says none.
const DefaultGrace = 5 * time.Second

// A File is an input. Its name holds no slash and no control character, and is
// neither the script's nor another file's.
type File struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// End says how a run ended.
type End uint8

// The ends of a run.
const (
	Exited    End = iota // by itself, with an exit code
	Signalled            // by a signal that was not ours
	TimedOut             // by Job.Timeout
	Killed               // because ctx was cancelled
	Failed               // it could not be run at all: Result.Err says why
	Lost                 // what kept it died, and the script with it
	Left                 // it goes on without this process: Job.Leave
)

// A Result is how a run ended and what it used.
type Result struct {
	End    End
	Code   int            // when Exited
	Signal syscall.Signal // when Signalled
	Wall   time.Duration
	CPU    time.Duration // user and system, of the script and the children it waited for
	MaxRSS int64         // bytes, the largest single process; on Linux no less than the worker's own (exec inherits it)
	Err    error         // when Failed; else what went wrong beside: an output that was not taken, collecting, removing

	// Evidence of what contains the script. It counts where the script failed.
	OOM      bool // the kernel killed part of it, which wanted more than its memory
	DiskFull bool // nothing was left in the end of its room for files

	// Forget is called once what became of the job is known for good, or
	// stands where another process finds it: until then the job can be
	// adopted. nil: nothing is kept of it.
	Forget func() error
}

// ErrNotInstalled, in a Result that Failed, says that this machine lacks the
// interpreter.
var ErrNotInstalled = errors.New("not installed on this machine")

// ErrNotExecutable, in a Result that Exited with [CodeNotExecutable], says that
// a Job without a Command brought a file that is no executable of this machine.
var ErrNotExecutable = errors.New("not an executable of this machine")

// CodeNotExecutable is the exit code that shells give to such a file (POSIX,
// Shell Command Language, 2.8.2).
const CodeNotExecutable = 126

// ErrLease, in a Result that was Killed, says that nobody extended its lease.
var ErrLease = errors.New("the lease was not extended in time")

// ErrNow as the cause of a cancelled context kills without grace.
var ErrNow = errors.New("kill at once")

// A Runner runs jobs; any number at a time.
//
// When ctx is cancelled the script is killed: SIGTERM, Job.Grace, SIGKILL; at
// once where context.Cause(ctx) is [ErrNow], and from then on when Job.Now is
// closed, which alone suffices once the script has been laid out. Run returns
// when every process that the script started is dead and its directory is gone;
// with a Result.Forget the directory stays until that is called.
type Runner interface {
	Run(ctx context.Context, job Job) Result
}

// An Adopter is a Runner whose jobs outlive the process that started them.
type Adopter interface {
	Runner
	// Adopt returns the jobs that processes which are gone have left, once.
	Adopt() ([]Orphan, error)
}

// An Orphan is a job whose process is gone.
type Orphan interface {
	// Note is what the Job's returned.
	Note() []byte
	// Stdin is how much of its stdin the script got, and whether it wants the
	// rest.
	Stdin() (size uint64, more bool)
	// Until is when its keeper ends it, as [Boottime] has it; 0: nothing runs any
	// more.
	Until() time.Duration
	// Resume is Run for what is left of the job, of which Stdout, Stderr,
	// Stdin, Serve, Now, Collect, Lease and Leave count. Both outputs are written from
	// their first byte on. The result is Lost where the job died meanwhile.
	Resume(ctx context.Context, job Job) Result
}
