package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/spool"
	"modulate/internal/store"
	"modulate/workerd/device"
	"modulate/workerd/host"
	"modulate/workerd/worker"
)

// here runs promises in this process, over a store that no server serves:
// those that were asked for, and whatever their scripts submit, each at once.
// Nothing else in the store is touched.
type here struct {
	name   string // of its worker
	local  *local.Local
	worker *worker.Worker
	spool  *spool.Spool
	host   *host.Host
	app    *app

	end     func() error // ends what is idle of its runner
	gpus    func() (*device.Pool, error)
	looking sync.WaitGroup // at the GPUs

	ctx  context.Context // of the executions
	stop context.CancelFunc

	mu      sync.Mutex
	started map[string]bool
	going   map[string]bool // executions that go on
	failed  error           // the first that could not be brought to an end
	running sync.WaitGroup
}

// newHere returns a here over l. The second Ctrl-C kills at once.
func newHere(l *local.Local, a *app) (*here, error) {
	described, err := a.machine()
	if err != nil {
		return nil, err
	}
	name := "cli-" + strings.ToLower(rand.Text()[:10])
	spool, err := l.Spool(name, "")
	if err != nil {
		return nil, err
	}
	machine, err := host.Open(described, host.Options{Devices: described.SharedDevices(a.signals.hard)}) // what scripts must see to use GPUs
	if err != nil {
		return nil, errors.Join(err, spool.Close())
	}
	if machine.Missing != "" {
		a.line(machine.Contains())
	}
	run, end, err := machine.Runner(host.Worker{Spool: spool.Dir, Slots: 1})
	if err != nil {
		return nil, errors.Join(err, machine.Close(), spool.Close())
	}
	h := &here{end: end, name: name, local: l, app: a, spool: spool, host: machine, started: map[string]bool{}, going: map[string]bool{}}
	w, err := worker.New(worker.Config{
		Engine: l.Engine, Audience: l.Store, Name: name, Runner: run, Runtimes: machine.Runtimes,
		Environments: machine.Environments, Lend: h.lend,
		API: l.Handler(), OnSubmit: h.run, Spool: spool.Dir,
	})
	if err != nil {
		return nil, errors.Join(err, end(), machine.Close(), spool.Close())
	}
	h.worker = w
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.gpus = sync.OnceValues(func() (*device.Pool, error) { return h.openGPUs(described) })
	if described.GPUs.Lend != "" { // there are to be some
		if _, err := h.gpus(); err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	context.AfterFunc(a.signals.hard, w.Abort)
	l.Engine.Queue = unsent{Queue: l.Queue, ctx: h.ctx}
	return h, nil
}

// lend lends GPUs to an attempt for a machine, which are found when the first
// asks for one: nvidia-smi takes its time.
func (h *here) lend(ctx context.Context, machine string) (*device.Lease, error) {
	if machine == api.DefaultTarget {
		return nil, nil
	}
	gpus, err := h.gpus()
	if err != nil {
		return nil, err
	}
	return gpus.Take(ctx)
}

// openGPUs finds the GPUs, each for one script at a time.
func (h *here) openGPUs(described host.Machine) (*device.Pool, error) {
	log := slog.New(slog.NewTextHandler(h.app.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	found, err := described.OwnDevices(h.ctx, log)
	if err != nil {
		return nil, err
	}
	gpus, err := found.Pool(max(found.Slots(), 1), h.host.Sandbox.Level, log)
	if err == nil {
		h.looking.Go(func() { gpus.Run(h.ctx) })
	}
	return gpus, err
}

// unsent is the queue while promises are run here: nobody need be told of
// them. What is given back when ctx has ended is sent for; what is left by a
// kill, the sweep of the next server sends for.
type unsent struct {
	queue.Queue
	ctx context.Context
}

func (u unsent) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	if u.ctx.Err() == nil {
		return nil
	}
	return u.Queue.Send(ctx, machine, body, delay)
}

// run executes the promise with that id, once.
func (h *here) run(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.started[id] || h.ctx.Err() != nil {
		return
	}
	h.started[id], h.going[id] = true, true
	h.running.Go(func() {
		_, err := h.worker.Execute(h.ctx, id)
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.going, id)
		if err != nil && h.failed == nil && h.ctx.Err() == nil {
			h.failed = fmt.Errorf("running %s: %w", id, err)
		}
	})
}

// resume executes id, and what it had submitted before it was broken off.
func (h *here) resume(ctx context.Context, id string) error {
	rec, err := h.local.Engine.Get(ctx, id)
	if errors.Is(err, promise.ErrNotFound) {
		return nil // who waits for it will say so
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", id, err)
	}
	if !rec.State.Terminal() {
		h.run(id)
	}
	const page = 100
	for after := ""; ; {
		children, err := h.local.Store.Children(ctx, id, after, page)
		if err != nil {
			return fmt.Errorf("looking for the children of %s: %w", id, err)
		}
		for _, child := range children {
			if after = child.ID; !child.State.Terminal() {
				h.run(child.ID)
			}
		}
		if len(children) < page {
			break
		}
	}
	return h.resumeDetached(ctx, rec)
}

// resumeDetached executes the detached children of a promise whose ids count.
func (h *here) resumeDetached(ctx context.Context, rec promise.Record) error {
	for n := 1; ; n++ {
		child, err := h.local.Store.Get(ctx, promise.DetachedID(rec.ID, n))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for the detached children of %s: %w", rec.ID, err)
		}
		if !child.State.Terminal() {
			h.run(child.ID)
		}
	}
}

// finish returns when everything that was started has ended. Once ctx is over
// the scripts are killed and given back, at no cost to their retries; broken
// are their ids.
func (h *here) finish(ctx context.Context) (broken []string, err error) {
	defer h.stop()
	done := make(chan struct{})
	go func() {
		h.running.Wait()
		close(done)
	}()
	said := time.AfterFunc(liveAfter, func() {
		h.app.setStatus(fmt.Sprintf("waiting for %d more that it submitted", len(h.goingOn())))
	})
	defer said.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		broken = h.goingOn()
		h.stop()
		h.app.setStatus("stopping what runs; Ctrl-C again kills it at once")
		<-done
	}
	h.app.setStatus("")
	h.mu.Lock()
	defer h.mu.Unlock()
	return broken, h.failed
}

// goingOn returns the ids whose executions go on.
func (h *here) goingOn() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.going))
}

// close gives up what newHere took. Nothing is left running.
func (h *here) close() error {
	h.stop()
	h.running.Wait()
	h.looking.Wait()
	return errors.Join(h.end(), h.host.Close(), h.spool.Close())
}
