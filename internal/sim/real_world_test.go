package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

// lab is where package worker and package sweep themselves run, in a bubble of
// virtual time, over memory ports that fail. Goroutines decide the order, so a
// seed draws the faults and not the history.
type lab struct {
	memory *store.Memory
	queue  *queue.Memory
	blobs  *blob.Memory

	mu      sync.Mutex
	rng     *rand.Rand
	faults  map[string]int
	records map[string]promise.Record
	running map[string]int // execution, by id
	begun   int
	version map[int]uint64 // by execution
	broken  []string
}

func newLab(seed uint64) *lab {
	return &lab{
		memory: store.NewMemory(), queue: queue.NewMemory("cpu"), blobs: blob.NewMemory(),
		rng: rand.New(rand.NewPCG(seed, 7)), faults: map[string]int{}, records: map[string]promise.Record{},
		running: map[string]int{}, version: map[int]uint64{},
	}
}

func (l *lab) chance(p float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.Float64() < p
}

func (l *lab) upTo(d time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.rng.Int64N(int64(d)))
}

func (l *lab) fault(kind string, p float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	hit := l.rng.Float64() < p
	if hit {
		l.faults[kind]++
	}
	return hit
}

func (l *lab) breaks(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = append(l.broken, fmt.Sprintf(format, args...))
}

// observe looks at a write that has just happened.
func (l *lab) observe(rec promise.Record) {
	l.mu.Lock()
	was := l.records[rec.ID]
	if rec.Rev <= was.Rev { // a later one was faster to come here
		l.mu.Unlock()
		return
	}
	l.records[rec.ID] = rec
	version := l.version[int(rec.Outcome.Usage.MaxRSS)]
	l.mu.Unlock()
	if was.State.Terminal() && !equalBut(was, rec) {
		l.breaks("%s was settled as %s and is settled again as %s", rec.ID, was.State, rec.State)
	}
	if !was.State.Terminal() && rec.State == promise.Resolved && (version == 0 || version != rec.Task.Version || version != rec.Outcome.Version) {
		l.breaks("%s is settled by version %d, and held under %d", rec.ID, version, rec.Task.Version)
	}
}

// A machine is a worker's host: its ports, and whether it is alive.
type machine struct {
	*lab
	died   chan struct{}
	mu     sync.Mutex
	frozen time.Time // its ports answer nothing until then
}

func (l *lab) newMachine() *machine { return &machine{lab: l, died: make(chan struct{})} }

func (m *machine) engine() *engine.Engine {
	return &engine.Engine{Store: linkedStore{m.memory, m}, Queue: linkedQueue{m.lab.queue, m}, Blobs: linkedBlobs{m.blobs, m}}
}

// freeze keeps the ports from answering for d.
func (m *machine) freeze(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = time.Now().Add(d)
}

// travel is one way of a call.
func (m *machine) travel(ctx context.Context) error {
	m.mu.Lock()
	wait := max(m.upTo(4*time.Millisecond), time.Until(m.frozen))
	m.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-m.died:
		return errLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call is a call of a port, whose answer may get lost.
func (m *machine) call(ctx context.Context, name string, do func() error) error {
	if err := m.travel(ctx); err != nil {
		return err
	}
	if m.fault(name+"_failed", 0.04) {
		return errLost
	}
	err := do()
	if lost := m.travel(ctx); lost != nil {
		return lost
	}
	if m.fault(name+"_unanswered", 0.04) {
		return errLost
	}
	return err
}

type linkedStore struct {
	*store.Memory
	m *machine
}

// Get implements [store.Store].
func (s linkedStore) Get(ctx context.Context, id string) (rec promise.Record, err error) {
	err = s.m.call(ctx, "get", func() (err error) {
		rec, err = s.Memory.Get(ctx, id)
		return err
	})
	if err != nil {
		rec = promise.Record{}
	}
	return rec, err
}

// Create implements [store.Store].
func (s linkedStore) Create(ctx context.Context, rec promise.Record) error {
	return s.m.call(ctx, "create", func() error {
		err := s.Memory.Create(context.WithoutCancel(ctx), rec)
		if err == nil {
			s.m.observe(rec)
		}
		return err
	})
}

// Replace implements [store.Store].
func (s linkedStore) Replace(ctx context.Context, next promise.Record) error {
	return s.m.call(ctx, "replace", func() error {
		if s.m.fault("throttled", 0.02) {
			return store.ErrThrottled
		}
		ctx := context.WithoutCancel(ctx)
		err := s.Memory.Replace(ctx, next)
		if err == nil {
			s.m.observe(next)
			if s.m.fault("replace_doubled", 0.02) {
				return s.Memory.Replace(ctx, next)
			}
		}
		return err
	})
}

// Due implements [store.Store].
func (s linkedStore) Due(ctx context.Context, now promise.Time, limit int) (ids []string, err error) {
	err = s.m.call(ctx, "due", func() (err error) {
		ids, err = s.Memory.Due(ctx, now, limit)
		return err
	})
	return ids, err
}

type linkedQueue struct {
	*queue.Memory
	m *machine
}

// Send implements [queue.Queue].
func (q linkedQueue) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	return q.m.call(ctx, "send", func() error {
		if q.m.fault("message_lost", 0.04) {
			return nil
		}
		if q.m.fault("message_doubled", 0.05) {
			if err := q.Memory.Send(ctx, machine, body, delay); err != nil {
				return err
			}
		}
		return q.Memory.Send(ctx, machine, body, delay)
	})
}

// Receive implements [queue.Queue].
func (q linkedQueue) Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.m.travel(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-q.m.died:
			cancel(errLost)
		case <-ctx.Done():
		}
	}()
	got, err := q.Memory.Receive(ctx, machine, limit, hide, wait)
	if err == nil && len(got) > 0 && q.m.fault("receive_lost", 0.04) {
		return nil, errLost
	}
	return got, err
}

// Extend implements [queue.Queue].
func (q linkedQueue) Extend(ctx context.Context, machine, receipt string, hide time.Duration) error {
	return q.m.call(ctx, "hide", func() error { return q.Memory.Extend(ctx, machine, receipt, hide) })
}

// Delete implements [queue.Queue].
func (q linkedQueue) Delete(ctx context.Context, machine, receipt string) error {
	return q.m.call(ctx, "delete", func() error { return q.Memory.Delete(ctx, machine, receipt) })
}

type linkedBlobs struct {
	*blob.Memory
	m *machine
}

// Put implements [blob.Blobs].
func (b linkedBlobs) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	return b.m.call(ctx, "blob_put", func() error { return b.Memory.Put(ctx, key, src, size, sum) })
}

// Get implements [blob.Blobs].
func (b linkedBlobs) Get(ctx context.Context, key string, offset int64) (src io.ReadCloser, err error) {
	err = b.m.call(ctx, "blob_get", func() (err error) {
		src, err = b.Memory.Get(ctx, key, offset)
		return err
	})
	return src, err
}

// Run implements [runner.Runner]: a script is a while in which its machine may
// die, or stop answering. What came of it carries the execution's number.
func (m *machine) Run(ctx context.Context, job runner.Job) runner.Result {
	src, err := job.Script()
	if err != nil {
		return runner.Result{End: runner.Failed, Err: err}
	}
	src.Close()
	id := ""
	for _, v := range job.Env {
		if name, ok := strings.CutPrefix(v, "MODULATE_ID="); ok {
			id = name
		}
	}
	number := m.begin(id)
	defer m.end(id)
	runs := 50*time.Millisecond + m.upTo(20*time.Second)
	if m.chance(0.2) {
		runs = m.upTo(3 * time.Minute)
	}
	m.befall(runs)
	timer := time.NewTimer(runs)
	defer timer.Stop()
	select {
	case <-timer.C:
		fmt.Fprintf(job.Stdout, "execution %d of %s", number, id)
		return runner.Result{End: runner.Exited, MaxRSS: int64(number)}
	case <-ctx.Done():
	case <-m.died:
	}
	return runner.Result{End: runner.Killed}
}

// befall draws what happens to the machine while it runs a script for that
// long.
func (m *machine) befall(runs time.Duration) {
	after := m.upTo(runs)
	switch {
	case m.fault("crash", 0.08):
		time.AfterFunc(after, m.die)
	case m.fault("freeze", 0.08):
		time.AfterFunc(after, func() { m.freeze(m.upTo(50 * time.Second)) })
	}
}

func (m *machine) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.died:
	default:
		close(m.died)
	}
}

// begin records that a script starts. The worker's timers go on while its
// ports are frozen, so it always kills in time: no two of one id run at once.
func (m *machine) begin(id string) int {
	rec, err := m.memory.Get(context.Background(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		m.breaks("%s: %v", id, err)
	}
	m.lab.mu.Lock()
	other := m.running[id]
	m.begun++
	number := m.begun
	m.running[id], m.version[number] = number, rec.Task.Version
	m.lab.mu.Unlock()
	if other != 0 {
		m.breaks("%s runs twice at once", id)
	}
	return number
}

func (m *machine) end(id string) {
	m.lab.mu.Lock()
	defer m.lab.mu.Unlock()
	delete(m.running, id)
}
