// Package worker turns messages into attempts. It receives only into free
// slots, claims the stored promise, runs its script, and settles it under the
// version it claimed; only then does it delete the message.
//
// The lease is the truth and the message's visibility the alarm clock. Both are
// extended every third of the lease. The lease is measured by the monotonic
// clock from before its extension was sent, and by the wall clock where that
// says less (the monotonic one stands still while the machine is suspended);
// the script is killed a margin before the lease can be over. Only a sentinel of package promise means that
// a task is lost; contention and answers that never came do not.
//
//	receive ─▶ claim ─▶ run ─▶ keep output ─▶ settle ─▶ delete the message
//	   │         │       │                      │
//	   │         │       ├─ cancelled, lost: kill, report nothing
//	   │         │       └─ draining: kill, release, message visible at once
//	   │         └─ refused: the message waits or is deleted (see judge)
//	   └─ unreadable: buried; of a newer version: left
//
// An outcome that the store does not answer for is kept in the spool, one
// synced file each, and settled late, also after a restart.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/device"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// Config is what a Worker needs. Engine, Name and Runner are required, and
// Machine for Run.
type Config struct {
	Engine *engine.Engine
	Roster store.Roster // where it announces itself; nil: nowhere
	// AnnounceGap is the least time between two announcements, a minute at
	// most: where each is billed, a minute. 3 s when 0.
	AnnounceGap time.Duration
	// Audience knows who follows whose output; nil: nobody does.
	Audience store.Audience
	// LogGap is, where each piece of output that is shipped is billed, how long
	// less than 64 KB is held back while nobody follows; what is followed then
	// for a second. 0: all of it for 250 ms.
	LogGap time.Duration

	Machine string // whose queue Run receives from
	Slots   int    // attempts at once under Run; 1 when 0
	Name    string // no other worker has it

	Runner   runner.Runner
	Runtimes map[string][]string // name to command; see runner.Job.Command
	Devices  *device.Pool        // lent to attempts under Run, a share for each slot; nil: there are none
	// Environments runs scripts of the runtime uv; nil: there is no such.
	Environments *uv.Cache

	// API is what a script reaches through MODULATE_SOCKET, restricted to
	// submit, get, wait, cancel and the blobs that a submission needs. nil:
	// scripts get no socket.
	API http.Handler
	// Lend lends devices to an attempt under Execute, whose promise is for that
	// machine, and waits for them until ctx ends; nil: there are none.
	Lend func(ctx context.Context, machine string) (*device.Lease, error)
	// OnSubmit, if not nil, is told the id of every child that the API
	// accepted. Submissions are then answered without waiting for their end.
	OnSubmit func(id string)

	Spool string // directory for outcomes that wait for the store; "": they wait in memory, and scripts die with this process

	Lease time.Duration // how long a received message is hidden until its call's own lease is known; DefaultLease when 0
	Drain time.Duration // how long scripts may go on once Run is to stop; 0: not at all
	Log   *slog.Logger  // nil: discarded
}

// The points at which Engine.Fail is called by a worker, for tests that stop
// the process there.
const (
	PointClaimed  = "worker.claimed"  // the task is claimed, the script not started
	PointRan      = "worker.ran"      // the script is dead, its output not all kept
	PointUploaded = "worker.uploaded" // its output is kept, nothing settled
	PointKept     = "worker.kept"     // the store did not answer, the outcome is in the spool
	PointSettled  = "worker.settled"  // the promise is settled, the message not deleted
	PointDeleted  = "worker.deleted"  // the message is deleted
	PointReleased = "worker.released" // the task is given back, its message not yet visible
)

// Durations that nobody configures.
const (
	grace      = 5 * time.Second  // between SIGTERM and SIGKILL
	callTime   = 10 * time.Second // for one answer of a port
	blobTime   = time.Minute      // for a blob to be had or kept, once that fails
	settleTime = 10 * time.Second // for what is left to do when the drain is over
	rollover   = 11 * time.Hour   // since the receive; the queue's visibility ends at 12
)

// A Worker executes promises: those of its machine's queue under Run, and
// single ones under Execute. Its methods may be called from any goroutine; Run
// is called once.
type Worker struct {
	cfg     Config
	engine  *engine.Engine
	log     *slog.Logger
	spool   *spool
	started promise.Time

	store, queue, blobs trouble

	running  atomic.Int32
	presence chan struct{} // tells that running has changed
	recess   recess
	tally    tally

	mu       sync.Mutex
	jobs     map[*job]bool
	stopping reason // what befalls every job from now on; running: nothing

	abortOnce sync.Once
	aborted   chan struct{}
	away      departure
	overOnce  sync.Once
	over      chan struct{} // closed when the scripts are to be left to the next worker
}

// New returns a Worker. It makes the spool's directory.
func New(cfg Config) (*Worker, error) {
	cfg.Slots = cmp.Or(cfg.Slots, 1)
	cfg.Lease = cmp.Or(cfg.Lease, api.DefaultLease)
	cfg.AnnounceGap = cmp.Or(cfg.AnnounceGap, announceGap)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	switch {
	case cfg.Engine == nil || cfg.Runner == nil:
		return nil, errors.New("a worker needs an engine and a runner")
	case cfg.Name == "":
		return nil, errors.New("a worker needs a name that no other has")
	case cfg.Machine != "" && !promise.ValidMachine(cfg.Machine):
		return nil, fmt.Errorf("machine %q: want a lower-case letter, then at most 39 of a-z, 0-9 and '-'", cfg.Machine)
	case cfg.Slots < 0:
		return nil, fmt.Errorf("%d slots: want at least 1", cfg.Slots)
	case cfg.Lease+promise.Skew > queue.MaxVisibility:
		return nil, fmt.Errorf("lease %v: a queue hides messages for %v at most", cfg.Lease, queue.MaxVisibility)
	}
	kept, err := openSpool(cfg.Spool, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Worker{
		cfg: cfg, engine: cfg.Engine, log: cfg.Log, spool: kept,
		started:  cfg.Engine.Time(),
		store:    trouble{what: "the store", log: cfg.Log},
		queue:    trouble{what: "the queue", log: cfg.Log},
		blobs:    trouble{what: "the blobs", log: cfg.Log},
		presence: make(chan struct{}, 1),
		jobs:     make(map[*job]bool),
		aborted:  make(chan struct{}),
		over:     make(chan struct{}),
		away:     departure{cause: promise.CauseDrained, changed: make(chan struct{}), told: make(chan struct{})},
	}, nil
}

// Run settles what the spool holds and receives until ctx is cancelled. Then
// it drains: scripts may go on for Config.Drain, the others are killed and
// given back. Cancelled with the cause [runner.ErrNow] it kills at once, as
// Abort does. It returns when everything that it started has ended.
func (w *Worker) Run(ctx context.Context) error {
	if w.cfg.Machine == "" {
		return errors.New("a worker without a machine has no queue to receive from")
	}
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)

	first, cancel := context.WithTimeout(base, callTime)
	w.announce(first, 0) // some queues are there for machines that the roster knows
	w.settleKept(first)
	cancel()
	side, stop := context.WithCancel(base)
	defer stop()
	var tasks sync.WaitGroup
	tasks.Go(func() { w.keepAnnounced(side) })
	tasks.Go(func() { w.keep(side) })
	ctx, leave := w.untilStopped(ctx)
	defer leave(nil)

	in := w.newIntake(base)
	in.adopt()
	in.receive(ctx)
	w.tally.drains()
	in.drain(ctx, end)
	stop()
	tasks.Wait()
	w.retire(context.WithoutCancel(ctx))
	return nil
}

// Abort kills every script at once and gives its task back. It is for the
// second signal: Run and Execute return soon after.
func (w *Worker) Abort() { w.abortOnce.Do(func() { close(w.aborted) }) }

// untilStopped returns a context that ends with ctx, when the worker is to
// leave, and when it is aborted.
func (w *Worker) untilStopped(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-w.aborted:
			cancel(runner.ErrNow)
		case <-w.away.told:
			cancel(errLeaving)
		case <-w.over:
			cancel(errHandOver)
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// enter makes j one of the running jobs. What befalls all of them befalls it.
func (w *Worker) enter(j *job) {
	w.mu.Lock()
	w.jobs[j] = true
	stopping := w.stopping
	w.mu.Unlock()
	w.count(1)
	if stopping != running {
		j.stop(stopping)
	}
}

func (w *Worker) leave(j *job) {
	w.mu.Lock()
	delete(w.jobs, j)
	w.mu.Unlock()
	w.count(-1)
}

// stopAll stops every job, those that are still to come as well.
func (w *Worker) stopAll(why reason) {
	w.mu.Lock()
	w.stopping = max(w.stopping, why)
	jobs := make([]*job, 0, len(w.jobs))
	for j := range w.jobs {
		jobs = append(jobs, j)
	}
	w.mu.Unlock()
	for _, j := range jobs {
		j.stop(why)
	}
}

func (w *Worker) point(name string) {
	if w.engine.Fail != nil {
		w.engine.Fail(name)
	}
}
