package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	k.pool = pool{program: program, dir: cfg.Spool, prefix: FolderPrefix(cfg.Machine), hold: cfg.Hold, ahead: cfg.Ahead}
	first, err := k.pool.start() // so that it is known at once whether it can be
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKeepers, err)
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
	dir, err := k.spares.take(k.cfg.Dir)
	if err != nil {
		k.pool.put(c)
		return failed(err)
	}
	p := &place{k: k, client: c, dir: dir}
	res := p.begin(ctx, job)
	return p.leave(job, res)
}

// A place is where one job runs: its keeper and its directory.
type place struct {
	k      *Kept
	client *keeper.Client // nil: it is gone, and folder is what it left
	folder *keeper.Folder
	dir    jobDir
	run    *keeper.Run // nil: it has not begun
}

// begin lays the job out and runs it to its end.
func (p *place) begin(ctx context.Context, job Job) Result {
	noted := make(chan error, 1)
	if len(job.Note) > 0 {
		go func() { noted <- p.client.WriteManifest(append([]byte(string(p.dir)+"\x00"), job.Note...)) }()
	} else {
		noted <- nil
	}
	err := p.dir.lay(ctx, job)
	if err = errors.Join(err, <-noted); err != nil {
		if ctx.Err() != nil {
			return Result{End: Killed}
		}
		return failed(err)
	}
	cmd, err := plan(job, p.dir, p.k.cfg.Path)
	if err != nil {
		return failed(err)
	}
	if ctx.Err() != nil || closed(job.Now) {
		return Result{End: Killed}
	}
	grace := job.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	return p.attend(ctx, job, cmd, func(with keeper.Streams) *keeper.Run {
		return p.client.Begin(keeper.Start{
			Argv: append([]string{cmd.path}, cmd.argv[1:]...), Env: cmd.env, Dir: cmd.dir,
			Timeout: job.Timeout, Grace: grace, Until: job.Lease.end(), Mortal: len(job.Note) == 0,
		}, with)
	})
}

// attend runs what start starts, and says how it ended.
func (p *place) attend(ctx context.Context, job Job, cmd command, start func(keeper.Streams) *keeper.Run) Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.run = start(keeper.Streams{
		In: job.Stdin, Out: job.Stdout, Err: job.Stderr,
		Fail: func(err error) { cancel(&inputError{err}) },
	})
	if p.client != nil {
		defer job.Lease.watch(p.run.Until)()
	}
	left := p.supervise(ctx, job)
	exit, delivery, err := p.run.Wait()
	switch {
	case left:
		return Result{End: Left}
	case err != nil:
		return Result{End: Lost, Err: errors.Join(err, delivery)}
	case exit.End == keeper.NotStarted:
		return notStarted(job, cmd, syscall.Errno(exit.Errno))
	}
	res := kept(exit, delivery)
	var input *inputError
	if res.End == Killed && errors.As(context.Cause(ctx), &input) {
		return failed(input)
	}
	if res.End != Killed && job.Collect != nil {
		res.Err = errors.Join(res.Err, p.dir.collect(ctx, job.Collect))
	}
	return res
}

// supervise returns when all of the job is dead, or it was left: true.
func (p *place) supervise(ctx context.Context, job Job) (left bool) {
	canceled, now := ctx.Done(), job.Now
	for {
		select {
		case <-p.run.Done():
			return false
		case <-canceled:
			p.run.Stop(!errors.Is(context.Cause(ctx), ErrNow))
			canceled = nil
		case <-now:
			p.run.Stop(false)
			now = nil
		case <-job.Leave:
			p.client.Leave()
			return true
		}
	}
}

// kept is a keeper's word of how a job ended.
func kept(e keeper.Exit, delivery error) Result {
	res := Result{Wall: e.Wall, CPU: e.CPU, MaxRSS: e.MaxRSS * maxRSSUnit, Err: delivery}
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
	case len(job.Note) > 0:
		res.Forget = sync.OnceValue(p.clear)
	default:
		res.Err = errors.Join(res.Err, p.clear())
	}
	return res
}

// clear makes room for the next job.
func (p *place) clear() error {
	var errs []error
	if p.client == nil || !p.client.Alive() {
		errs = append(errs, p.bury())
	} else if err := p.client.ClearManifest(); err != nil {
		errs = append(errs, err, p.bury())
	} else {
		if p.run != nil {
			p.run.Forget()
		}
		p.k.pool.put(p.client)
	}
	if err := p.k.spares.give(p.dir); err != nil {
		errs = append(errs, fmt.Errorf("removing the job's directory: %w", err))
	}
	return errors.Join(errs...)
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
	if err != nil {
		return nil, errors.Join(err, removeFolder(dir)) // it was never whole
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
	o := &orphan{place: place{k: k, folder: f, dir: jobDir(where)}, note: note}
	if o.client, o.hello, err = keeper.Adopt(f); err != nil && !errors.Is(err, keeper.ErrGone) {
		f.Close()
		return nil, err
	}
	return o, nil
}

// Note implements [Orphan].
func (o *orphan) Note() []byte { return o.note }

// Stdin implements [Orphan].
func (o *orphan) Stdin() (uint64, bool) { return o.hello.Stdin, o.hello.Feed }

// Resume implements [Orphan].
func (o *orphan) Resume(ctx context.Context, job Job) Result {
	job.Note = o.note
	e, over := o.folder.Exit()
	switch {
	case o.client != nil && o.hello.Busy:
		return o.leave(job, o.attend(ctx, job, command{}, func(with keeper.Streams) *keeper.Run { return o.client.Resume(o.hello, with) }))
	case o.client == nil && over:
		return o.leave(job, o.attend(ctx, job, command{}, func(with keeper.Streams) *keeper.Run { return o.folder.Replay(e, with) }))
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
