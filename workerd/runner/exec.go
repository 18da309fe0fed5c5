package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"modulate/workerd/timerslack"
)

// DefaultPath is the PATH of scripts whose Exec says none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec runs jobs as processes of this machine, under the worker's own user.
// It has no sandbox.
//
// A script sees two fresh directories: its working directory, which is its
// HOME and TMPDIR too and holds the script and its inputs and nothing else, and
// MODULATE_OUTPUT. It leads a session of its own. When it has ended,
// whatever else is left of it is killed: its process group everywhere; on
// Linux also its session, and processes that left the session but still carry
// its MODULATE_OUTPUT in their environment. On Linux a script dies with its
// worker.
type Exec struct {
	Dir    string  // where the jobs' directories are made; "": the system's
	Path   string  // PATH of scripts; "": DefaultPath
	Spares *Spares // keeps the emptied directories of jobs for the next; nil: each is removed
}

var _ Runner = Exec{}

// Run implements [Runner].
func (e Exec) Run(ctx context.Context, job Job) (res Result) {
	dir, err := e.Spares.take(e.Dir)
	if err != nil {
		return failed(err)
	}
	defer func() {
		if err := e.Spares.give(dir); err != nil {
			res.Err = errors.Join(res.Err, fmt.Errorf("removing the job's directory: %w", err))
		}
	}()
	if err := dir.lay(ctx, job); err != nil {
		if ctx.Err() != nil {
			return Result{End: Killed}
		}
		return failed(err)
	}
	res = e.execute(ctx, job, dir.jobDir)
	if job.Collect != nil && res.End != Killed && res.End != Failed && !errors.Is(res.Err, ErrNotExecutable) {
		res.Err = errors.Join(res.Err, dir.collect(ctx, job.Collect))
	}
	return res
}

// execute runs what was laid out in dir to its end.
func (e Exec) execute(ctx context.Context, job Job, dir jobDir) Result {
	if ctx.Err() != nil || closed(job.Now) {
		return Result{End: Killed}
	}
	if job.Serve != nil {
		l, err := listenAt(dir.socket(), false)
		if err != nil {
			return failed(fmt.Errorf("making the script's socket: %w", err))
		}
		job.Env = append(slices.Clone(job.Env), "MODULATE_SOCKET="+dir.socket())
		job.Serve(l, "")
	}
	cmd, err := plan(job, dir, e.Path)
	if err != nil {
		return failed(err)
	}
	std, err := openStreams(job)
	if err != nil {
		return failed(err)
	}
	cmd.files = std.child()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, end, err := attend(ctx, job, cmd, func(err error) {
		std.closeChild()
		if err == nil {
			std.begin(func(err error) { cancel(&inputError{err}) })
		}
	})
	if err != nil {
		std.abandon()
		return notStarted(job, cmd, err)
	}
	errStreams := std.end()
	var input *inputError
	if end == Killed && errors.As(context.Cause(ctx), &input) {
		return failed(input)
	}
	return p.result(end, errStreams)
}

// attend starts a process, tells begun, and returns when it and all that it
// started are dead, with why it ended. The calling goroutine keeps its thread
// meanwhile: on Linux the process is killed when the thread that started it
// ends (PR_SET_PDEATHSIG(2const)). The thread keeps the timers of scripts
// afterwards: it is the runtime's own thread on which those of a server matter.
func attend(ctx context.Context, job Job, cmd command, begun func(error)) (*process, End, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	timerslack.Narrow()
	p := &process{pidfd: -1, begin: time.Now(), done: make(chan struct{})}
	err := p.fork(cmd)
	begun(err)
	if err != nil {
		return nil, Failed, err
	}
	go p.wait(cmd.marker)
	return p, p.supervise(ctx, job), nil
}

func failed(err error) Result { return Result{End: Failed, Err: err} }

// notStarted is the result of a job whose process could not be started.
func notStarted(job Job, cmd command, err error) Result {
	if len(job.Command) == 0 && errors.Is(err, syscall.ENOEXEC) {
		return Result{Code: CodeNotExecutable, Err: fmt.Errorf("%s is %w", job.Name, ErrNotExecutable)}
	}
	return failed(fmt.Errorf("starting %s: %w", cmd.argv[0], err))
}

// An inputError ends a script that cannot be given its whole input.
type inputError struct{ err error }

func (e *inputError) Error() string        { return "reading the script's stdin: " + e.err.Error() }
func (e *inputError) Unwrap() error        { return e.err }
func (e *inputError) Is(target error) bool { return target == ErrNow }

// A command is what a process is started from.
type command struct {
	path   string // of the executable
	argv   []string
	dir    string
	env    []string
	marker string // an entry of env that no other job has
	files  []uintptr
}

// plan is what a job is started from in dir; path is its PATH.
func plan(job Job, dir jobDir, path string) (command, error) {
	c := command{dir: dir.work(), marker: "MODULATE_OUTPUT=" + dir.output()}
	var err error
	if c.argv, c.path, err = words(job); err != nil {
		return command{}, err
	}
	c.env = environ(job.Env, c.marker, []string{"HOME=" + dir.work(), "PATH=" + cmp.Or(path, DefaultPath), "TMPDIR=" + dir.work()})
	return c, nil
}

// words are the words of a job's command, and the path of what is executed.
func words(job Job) (argv []string, path string, err error) {
	script := job.Name
	if len(job.Command) == 0 || strings.HasPrefix(script, "-") {
		script = "./" + script // never looked up, never a flag
	}
	argv = append(append(append(argv, job.Command...), script), job.Args...)
	path = argv[0]
	if len(job.Command) > 0 && !strings.Contains(path, "/") {
		if path, err = exec.LookPath(path); err != nil {
			return nil, "", fmt.Errorf("%s is %w", argv[0], ErrNotInstalled)
		}
	}
	return argv, path, nil
}

// environ puts the marker first, where it is found soonest, then the defaults
// that are not given, then what is given.
func environ(given []string, marker string, defaults []string) []string {
	env := append(make([]string, 0, 1+len(defaults)+len(given)), marker)
	has := func(list []string, entry string) bool {
		name := entry[:strings.IndexByte(entry, '=')+1]
		for _, g := range list {
			if strings.HasPrefix(g, name) {
				return true
			}
		}
		return false
	}
	for _, d := range defaults {
		if !has(given, d) {
			env = append(env, d)
		}
	}
	for _, g := range given {
		if !strings.HasPrefix(g, "MODULATE_OUTPUT=") {
			env = append(env, g)
		}
	}
	return env
}

// fork starts the process. A script that was just written may be held open
// for writing by a process that another goroutine is forking at this moment;
// it is over when that one has executed (golang.org/issue/22315).
func (p *process) fork(c command) (err error) {
	attr := &syscall.ProcAttr{Dir: c.dir, Env: c.env, Files: c.files, Sys: p.sysProcAttr()}
	for range 100 {
		p.pid, err = syscall.ForkExec(c.path, c.argv, attr)
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// supervise returns when the process and all that it started are dead, and
// says why it ended: Exited stands for its own doing.
func (p *process) supervise(ctx context.Context, job Job) End {
	var timeout <-chan time.Time
	if job.Timeout > 0 {
		timer := time.NewTimer(job.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	end := Exited
	select {
	case <-p.done:
		return Exited
	case <-timeout:
		end = TimedOut
	case <-ctx.Done():
		end = Killed
	case <-job.Now:
		end = Killed
	}
	if p.exited.Load() { // it was faster
		end = Exited
	} else {
		p.stop(ctx, job, end)
	}
	<-p.done
	return end
}

// stop asks the process group to end and, after grace or when it is to be at
// once, makes it.
func (p *process) stop(ctx context.Context, job Job, end End) {
	if !errors.Is(context.Cause(ctx), ErrNow) && !closed(job.Now) {
		p.signal(syscall.SIGTERM)
		p.signal(syscall.SIGCONT) // it may be stopped
		p.grace(ctx, job, end)
	}
	p.signal(syscall.SIGKILL)
}

// grace returns when the process has ended, when the time is over, or when it
// is now to be killed at once: by Job.Now, or by the context of a run that had
// timed out.
func (p *process) grace(ctx context.Context, job Job, end End) {
	timer := time.NewTimer(cmp.Or(job.Grace, DefaultGrace))
	defer timer.Stop()
	var canceled <-chan struct{}
	if end == TimedOut {
		canceled = ctx.Done()
	}
	for {
		select {
		case <-p.done:
			return
		case <-timer.C:
			return
		case <-job.Now:
			return
		case <-canceled:
			if errors.Is(context.Cause(ctx), ErrNow) {
				return
			}
			canceled = nil
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// result says how the process ended; end is why, as supervise has it.
func (p *process) result(end End, err error) Result {
	res := Result{
		End:    end,
		Wall:   p.wall,
		CPU:    time.Duration(p.usage.Utime.Nano() + p.usage.Stime.Nano()),
		MaxRSS: int64(p.usage.Maxrss) * maxRSSUnit,
		Err:    errors.Join(p.err, err),
	}
	if end == Exited && p.status.Signaled() {
		res.End, res.Signal = Signalled, p.status.Signal()
	} else if end == Exited {
		res.Code = p.status.ExitStatus()
	}
	return res
}
