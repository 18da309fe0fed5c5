package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/ahead"
	"modulate/workerd/keeper"
)

// Kept runs jobs by keepers, see package keeper: a job with a Note outlives
// this process. It has no sandbox; what a script sees is what [Exec] describes,
// but that it is in a pid namespace of its own, and that nothing it started can
// live on.
type Kept struct {
	cfg    KeptConfig
	spares Spares
	pool   pool
}

var _ Adopter = (*Kept)(nil)

// OpenKept returns a Kept that keeps keepers ready. It makes the folder of the
// keepers. Close ends what is idle.
func OpenKept(cfg KeptConfig) (*Kept, error) {
	if err := os.MkdirAll(cfg.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("making the keepers' folder: %w", err)
	}
	program := keeper.Program{Path: cfg.Program}
	if cfg.Program == "" {
		var err error
		if program, err = keeper.FindProgram(); err != nil {
			return nil, err
		}
	}
	k := &Kept{cfg: cfg}
	k.pool = pool{program: program, dir: cfg.Spool, prefix: cfg.Prefix, hold: cfg.Hold, ahead: cfg.Ahead}
	if cfg.Box != nil {
		k.pool.box = cfg.Box.box(cfg.Park)
	} else {
		k.pool.park = cfg.Park
	}
	first, err := k.pool.start() // so that it is known at once whether it can be
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKeepers, err)
	}
	if cfg.Box != nil {
		if err := first.AwaitCell(); err != nil {
			return nil, errors.Join(fmt.Errorf("scripts cannot be run in sandboxes: %w", err), k.pool.end(first))
		}
	}
	k.pool.put(first)
	k.pool.fill()
	return k, nil
}

// Close ends the keepers that are idle. Jobs have ended or were left.
func (k *Kept) Close() error { return errors.Join(k.pool.close(), k.spares.Close()) }

// Run implements [Runner].
func (k *Kept) Run(ctx context.Context, job Job) Result {
	c, err := k.pool.take()
	if err != nil {
		return failed(err)
	}
	g, err := k.settle(c, job)
	if err != nil {
		return failed(errors.Join(err, k.pool.end(c)))
	}
	p := &place{k: k, client: c, folder: c.Folder, ground: g}
	res := p.begin(ctx, job)
	return p.leave(job, res)
}

// box is what a keeper is told. An interpreter that is not there, or cannot
// wait for a script, starts with each: every start is cold then, and counted.
func (b *BoxConfig) box(park []string) *keeper.Box {
	box := &keeper.Box{Config: b.Sandbox, Env: boxEnv()}
	if b.Cgroups {
		box.Group = "modulate-" // and what is the folder's own
	}
	if !ahead.Parks(park) {
		return box
	}
	ctx, cancel := context.WithTimeout(context.Background(), pythonLimit)
	defer cancel()
	if program, err := ahead.Compile(ctx, park); err == nil {
		box.Park, box.Program = park, program
	}
	return box
}

// A place is where one job runs: its keeper and its ground.
type place struct {
	k      *Kept
	client *keeper.Client // nil: it is gone, and folder is what it left
	folder *keeper.Folder
	ground ground
	run    *keeper.Run // nil: it has not begun
}

// begin lays the job out and runs it to its end.
func (p *place) begin(ctx context.Context, job Job) Result {
	noted := make(chan error, 1)
	if job.Note != nil {
		go func() { noted <- p.note(job) }()
	} else {
		noted <- nil
	}
	err := p.ground.lay(ctx, job)
	if err = errors.Join(err, <-noted); err != nil {
		if ctx.Err() != nil {
			return Result{End: Killed}
		}
		if errors.Is(err, ErrNotExecutable) {
			return Result{Code: CodeNotExecutable, Err: err}
		}
		return failed(err)
	}
	cmd, err := p.ground.plan(p.k.withSocket(job, p.ground))
	if err != nil {
		return failed(err)
	}
	if ctx.Err() != nil || closed(job.Now) {
		return Result{End: Killed}
	}
	if err := p.serve(job); err != nil {
		return failed(err)
	}
	grace := job.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	until, forked := job.Lease.end(), 0
	if p.client.Forks(job.Command) {
		forked = len(job.Command)
	}
	return p.attend(ctx, job, cmd, until, func(with keeper.Streams) *keeper.Run {
		return p.client.Begin(keeper.Start{
			Path: cmd.path, Forked: forked, Argv: cmd.argv, Env: cmd.env, Dir: cmd.dir,
			Timeout: job.Timeout, Grace: grace, Until: until, Mortal: job.Note == nil,
		}, with)
	})
}

// note writes down whose job it is.
func (p *place) note(job Job) error {
	note, err := job.Note()
	if err != nil {
		return fmt.Errorf("writing down whose job it is: %w", err)
	}
	return p.folder.WriteManifest(append([]byte(p.ground.name()+"\x00"), note...))
}

// attend runs what start starts, whose keeper knows the end of its lease as
// until, and says how it ended.
func (p *place) attend(ctx context.Context, job Job, cmd command, until time.Duration, start func(keeper.Streams) *keeper.Run) Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.run = start(keeper.Streams{
		In: job.Stdin, Out: job.Stdout, Err: job.Stderr,
		Fail: func(err error) { cancel(&inputError{err}) },
	})
	if p.client != nil {
		defer job.Lease.watch(until, p.run.Until)()
	}
	left := p.supervise(ctx, job)
	exit, delivery, err := p.run.Wait()
	switch {
	case left:
		return Result{End: Left}
	case err != nil:
		return Result{End: Lost, Err: errors.Join(err, delivery)}
	case exit.End == keeper.NotStarted && exit.Trouble != "":
		return failed(errors.New(exit.Trouble))
	case exit.End == keeper.NotStarted:
		return notStarted(job, cmd, syscall.Errno(exit.Errno))
	}
	res := kept(exit, delivery)
	var input *inputError
	if res.End == Killed && errors.As(context.Cause(ctx), &input) {
		return failed(input)
	}
	if res.End != Killed && job.Collect != nil {
		res.Err = errors.Join(res.Err, p.ground.collect(ctx, job.Collect))
	}
	return res
}

// supervise returns when all of the job is dead, or it was left: true.
func (p *place) supervise(ctx context.Context, job Job) (left bool) {
	canceled, now, leave := ctx.Done(), job.Now, job.Leave
	if p.client == nil {
		leave = nil // it is over
	}
	for {
		select {
		case <-p.run.Done():
			return false
		case <-canceled:
			p.run.Stop(!errors.Is(context.Cause(ctx), ErrNow) && !closed(job.Now))
			canceled = nil
		case <-now:
			p.run.Stop(false)
			now = nil
		case <-leave:
			p.client.Leave()
			return true
		}
	}
}

// kept is a keeper's word of how a job ended.
func kept(e keeper.Exit, delivery error) Result {
	res := Result{Wall: e.Wall, CPU: e.CPU, MaxRSS: e.MaxRSS * maxRSSUnit, OOM: e.OOMKills > 0, DiskFull: e.DiskFull, Err: delivery}
	if e.Trouble != "" {
		res.Err = errors.Join(res.Err, errors.New(e.Trouble))
	}
	switch status := syscall.WaitStatus(e.Status); {
	case e.End == keeper.TimedOut:
		res.End = TimedOut
	case e.End == keeper.Stopped:
		res.End = Killed
	case e.End == keeper.LeaseOver:
		res.End, res.Err = Killed, errors.Join(res.Err, ErrLease)
	case status.Signaled():
		res.End, res.Signal = Signalled, status.Signal()
	default:
		res.Code = status.ExitStatus()
	}
	return res
}

// leave ends what the place was for: now, or, for a job that others may still
// adopt, when it is forgotten.
func (p *place) leave(job Job, res Result) Result {
	switch {
	case res.End == Left:
		res.Err = p.ground.give(true)
	case job.Note != nil:
		res.Forget = sync.OnceValue(p.clear)
	default:
		res.Err = errors.Join(res.Err, p.clear())
	}
	return res
}

// clear makes room for the next job.
func (p *place) clear() error {
	var errs []error
	if p.ground != nil {
		errs = append(errs, p.ground.give(false))
	}
	switch {
	case p.client == nil || !p.client.Alive():
		return errors.Join(append(errs, p.bury())...)
	case p.run == nil && p.k.cfg.Box != nil: // something was laid into its sandbox
		return errors.Join(append(errs, p.k.pool.end(p.client))...)
	}
	if err := p.client.ClearManifest(); err != nil {
		return errors.Join(append(errs, err, p.bury())...)
	}
	if err := emptyFile(p.folder.Children()); err != nil {
		return errors.Join(append(errs, err, p.bury())...)
	}
	if p.run != nil {
		p.run.Forget()
	}
	if !p.k.pool.started(p.client.Dir) { // its scripts are in what another process was configured for
		return errors.Join(append(errs, p.k.pool.end(p.client))...)
	}
	if !p.client.Fit() {
		errs = append(errs, p.k.pool.end(p.client))
		p.k.pool.fill()
		return errors.Join(errs...)
	}
	p.k.pool.put(p.client)
	return errors.Join(errs...)
}

// emptyFile empties a file that mostly is.
func emptyFile(path string) error {
	if info, err := os.Lstat(path); err != nil || info.Size() == 0 {
		return err
	}
	return os.Truncate(path, 0)
}

// bury removes the folder of a keeper that is dead or of no use any more.
func (p *place) bury() error {
	dir := ""
	if p.client != nil {
		dir = p.client.Dir
		p.client.Close()
	} else {
		dir = p.folder.Dir
		p.folder.Close()
	}
	return removeFolder(dir)
}

func removeFolder(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing a keeper's folder: %w", err)
	}
	return nil
}

// orphan implements [Orphan].
type orphan struct {
	place
	hello keeper.Hello
	note  []byte
}

// Adopt implements [Adopter].
func (k *Kept) Adopt() (all []Orphan, err error) {
	found, err := filepath.Glob(filepath.Join(escaped(k.cfg.Spool), k.pool.prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for what others have left: %w", err)
	}
	var errs []error
	for _, dir := range found {
		if k.pool.started(dir) {
			continue
		}
		o, err := k.adopt(dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("adopting %s: %w", dir, err))
		} else if o != nil {
			all = append(all, o)
		}
	}
	return all, errors.Join(errs...)
}

// escaped is a path as a pattern of [filepath.Glob].
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// adopt takes over one keeper's folder. nil: there is no job in it, and it is
// gone now.
func (k *Kept) adopt(dir string) (*orphan, error) {
	f, err := keeper.OpenFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, removeFolder(dir) // it was never whole
	}
	if err != nil {
		return nil, err
	}
	m, err := f.Manifest()
	if err != nil {
		f.Close()
		return nil, err
	}
	where, note, noted := bytes.Cut(m, []byte{0})
	if !noted {
		f.Close()
		return nil, removeFolder(dir)
	}
	o := &orphan{place: place{k: k, folder: f}, note: note}
	if o.client, o.hello, err = keeper.Adopt(f); err != nil && !errors.Is(err, keeper.ErrGone) {
		f.Close()
		return nil, err
	}
	switch {
	case len(where) > 0:
		o.ground = &hostGround{spare: spare{jobDir: jobDir(where)}, k: k}
	case o.client != nil && o.hello.Boxed:
		cell, err := o.client.Cell()
		if err != nil { // its script runs all the same
			cell = &keeper.Cell{Ready: keeper.Ready{Error: err.Error()}}
		}
		o.ground = boxGround{cell, o.client}
	}
	return o, nil
}

// Note implements [Orphan].
func (o *orphan) Note() []byte { return o.note }

// Stdin implements [Orphan].
func (o *orphan) Stdin() (uint64, bool) { return o.hello.Stdin, o.hello.Feed }

// Until implements [Orphan].
func (o *orphan) Until() time.Duration {
	if _, over := o.folder.Exit(); over || o.client == nil {
		return 0
	}
	return o.hello.Until
}

// Resume implements [Orphan].
func (o *orphan) Resume(ctx context.Context, job Job) Result {
	job.Note = func() ([]byte, error) { return o.note, nil }
	e, over := o.folder.Exit()
	switch {
	case o.ground == nil: // what it left went with its sandbox
	case o.client != nil && o.hello.Busy:
		if err := o.serve(job); err != nil {
			job.Serve = nil
		}
		return o.leave(job, o.attend(ctx, job, command{}, o.hello.Until, func(with keeper.Streams) *keeper.Run { return o.client.Resume(o.hello, with) }))
	case o.client == nil && over:
		return o.leave(job, o.attend(ctx, job, command{}, 0, func(with keeper.Streams) *keeper.Run { return o.folder.Replay(e, with) }))
	}
	return o.leave(job, Result{End: Lost, Err: keeper.ErrGone})
}

// Boottime is CLOCK_BOOTTIME, see clock_gettime(2).
func Boottime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // never so since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}

// BeKeeper is a keeper's life, where this binary was started as one: by its
// argv. False: it was not.
func BeKeeper(argv []string) (code int, was bool) {
	if !keeper.Called(argv) {
		return 0, false
	}
	return keeper.Main(), true
}
