package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is memory ports and the workers on them.
type world struct {
	t     *testing.T
	store *store.Memory
	queue *queue.Memory
	blobs *blob.Memory
	host  *host // of what the test itself does
	log   logged
}

// inWorld runs f in virtual time, which starts at 2000-01-01.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, newWorld(t))
		synctest.Wait()
	})
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: store.NewMemory(), queue: queue.NewMemory("cpu"), blobs: blob.NewMemory()}
	w.host = w.newHost()
	return w
}

// A host is one machine's view of the ports, which can be cut off.
type host struct {
	*engine.Engine
	store *link
	queue *queueLink
	blobs *blobLink
}

func (w *world) newHost() *host {
	h := &host{
		store: &link{Memory: w.store}, queue: &queueLink{Queue: w.queue}, blobs: &blobLink{Blobs: w.blobs},
	}
	h.Engine = &engine.Engine{Store: h.store, Queue: h.queue, Blobs: h.blobs}
	return h
}

// cut cuts the host off from every port, or connects it again.
func (h *host) cut(off bool) {
	h.store.down.Store(off)
	h.blobs.down.Store(off)
	h.queue.down.Store(off)
	h.queue.mu.Lock()
	defer h.queue.mu.Unlock()
	if hangUp := h.queue.hangUp; off && hangUp != nil {
		hangUp()
	}
}

var errCut = errors.New("the line is cut")

// link is a host's line to the store.
type link struct {
	*store.Memory
	down   atomic.Bool                                    // nothing arrives
	fault  atomic.Pointer[func(next promise.Record) bool] // the write arrives, its answer does not
	delay  atomic.Pointer[func(next promise.Record)]      // called before the write arrives
	writes atomic.Int32
	reads  atomic.Int32
}

func (l *link) Get(ctx context.Context, id string) (promise.Record, error) {
	l.reads.Add(1)
	if l.down.Load() {
		return promise.Record{}, errCut
	}
	return l.Memory.Get(ctx, id)
}

func (l *link) Replace(ctx context.Context, next promise.Record) error {
	if l.down.Load() {
		return errCut
	}
	l.writes.Add(1)
	if f := l.delay.Load(); f != nil {
		(*f)(next)
	}
	err := l.Memory.Replace(ctx, next)
	if f := l.fault.Load(); err == nil && f != nil && (*f)(next) {
		return errCut
	}
	return err
}

// loseAnswer makes the answers of writes that match get lost.
func (l *link) loseAnswer(match func(next promise.Record) bool) { l.fault.Store(&match) }

// mute is a store that cannot tell of changes.
type mute struct{ store.Store }

// queueLink is a host's line to the queue. Receives that wait when it is cut
// are cut as well.
type queueLink struct {
	queue.Queue
	down    atomic.Bool
	deletes atomic.Int32

	mu     sync.Mutex
	taken  []string           // receipts
	hangUp context.CancelFunc // ends the receive that waits
}

func (l *queueLink) Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]queue.Delivery, error) {
	if l.down.Load() {
		return nil, errCut
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.hangUp = cancel
	l.mu.Unlock()
	got, err := l.Queue.Receive(ctx, machine, limit, hide, wait)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range got {
		l.taken = append(l.taken, d.Receipt)
	}
	return got, err
}

func (l *queueLink) Extend(ctx context.Context, machine, receipt string, hide time.Duration) error {
	if l.down.Load() {
		return errCut
	}
	return l.Queue.Extend(ctx, machine, receipt, hide)
}

func (l *queueLink) Delete(ctx context.Context, machine, receipt string) error {
	if l.down.Load() {
		return errCut
	}
	l.deletes.Add(1)
	return l.Queue.Delete(ctx, machine, receipt)
}

// blobLink is a host's line to the blobs.
type blobLink struct {
	blob.Blobs
	down atomic.Bool
	puts atomic.Int32
}

func (l *blobLink) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	l.puts.Add(1)
	if l.down.Load() {
		return errCut
	}
	return l.Blobs.Put(ctx, key, src, size, sum)
}

func (l *blobLink) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if l.down.Load() {
		return nil, errCut
	}
	return l.Blobs.Get(ctx, key, offset)
}

// scripts is a Runner whose scripts are functions.
type scripts struct {
	mu     sync.Mutex
	does   func(ctx context.Context, job runner.Job) runner.Result
	starts []start
	active map[string]int
	most   int // of one promise's at once
}

type start struct {
	id, attempt string
	at          time.Time
}

var _ runner.Runner = (*scripts)(nil)

func (s *scripts) Run(ctx context.Context, job runner.Job) runner.Result {
	id := envOf(job, "MODULATE_ID")
	s.mu.Lock()
	if s.active == nil {
		s.active = map[string]int{}
	}
	s.starts = append(s.starts, start{id, envOf(job, "MODULATE_ATTEMPT"), time.Now()})
	s.active[id]++
	s.most = max(s.most, s.active[id])
	does := s.does
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.active[id]--
		s.mu.Unlock()
	}()
	if does == nil {
		return runner.Result{}
	}
	begun := time.Now()
	res := does(ctx, job)
	res.Wall = time.Since(begun)
	return res
}

func (s *scripts) started() []start {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.starts)
}

func envOf(job runner.Job, name string) string {
	for _, e := range job.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// lasting is a script that runs for d and exits with code. Killed it takes a
// second, or no time if at once.
func lasting(d time.Duration, code int) func(context.Context, runner.Job) runner.Result {
	return func(ctx context.Context, job runner.Job) runner.Result {
		var timeout <-chan time.Time
		if job.Timeout > 0 {
			timeout = time.After(job.Timeout)
		}
		select {
		case <-time.After(d):
			return runner.Result{Code: code}
		case <-timeout:
			return runner.Result{End: runner.TimedOut}
		case <-ctx.Done():
		}
		if !errors.Is(context.Cause(ctx), runner.ErrNow) {
			select {
			case <-time.After(min(time.Second, job.Grace)):
			case <-job.Now:
			}
		}
		return runner.Result{End: runner.Killed}
	}
}

// A crew is one worker under Run on a host of its own.
type crew struct {
	*Worker
	host    *host
	scripts *scripts
	stop    context.CancelCauseFunc
	ended   chan struct{}
}

// hire starts a worker. change changes its configuration, if not nil.
func (w *world) hire(name string, does func(context.Context, runner.Job) runner.Result, change func(*Config)) *crew {
	w.t.Helper()
	c := &crew{host: w.newHost(), scripts: &scripts{does: does}, ended: make(chan struct{})}
	cfg := Config{
		Engine: c.host.Engine, Roster: w.store, Machine: "cpu", Slots: 2, Name: name,
		Runner: c.scripts, Runtimes: map[string][]string{"python": {"python3"}},
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if c.Worker, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, c.stop = context.WithCancelCause(w.t.Context())
	go func() {
		defer close(c.ended)
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
	w.t.Cleanup(c.fire)
	return c
}

// fire stops the worker at once.
func (c *crew) fire() {
	c.stop(runner.ErrNow)
	<-c.ended
}

// submit creates a promise. change changes its record, if not nil.
func (w *world) submit(id string, change func(*promise.Record)) {
	w.t.Helper()
	rec := promise.Record{
		ID: id, Owner: "local", Machine: "cpu", DeadlineAt: w.host.Time().Add(100 * time.Hour),
		Call: promise.Call{Name: "x.py", Timeout: 90 * time.Hour, Lease: 30 * time.Second},
	}
	if change != nil {
		change(&rec)
	}
	if _, err := w.host.Create(w.t.Context(), rec, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(id string) promise.Record {
	w.t.Helper()
	rec, err := w.store.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// settled waits until the promise is terminal, at most for limit.
func (w *world) settled(id string, limit time.Duration) promise.Record {
	w.t.Helper()
	watch := w.host.WatchEnd(id)
	defer watch.Stop()
	rec, err := watch.Wait(w.t.Context(), w.get(id), limit)
	if err != nil || !rec.State.Terminal() {
		w.t.Fatalf("%s is %s after %v: %v\n%s", id, rec.State, limit, err, w.log.String())
	}
	synctest.Wait() // for what follows the settle
	return rec
}

func (w *world) depth() queue.Depth {
	w.t.Helper()
	d, err := w.queue.Depth(w.t.Context(), "cpu")
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// purge deletes the messages that the host has received.
func (w *world) purge(h *host) {
	w.t.Helper()
	h.queue.mu.Lock()
	defer h.queue.mu.Unlock()
	for _, receipt := range h.queue.taken {
		if err := w.queue.Delete(w.t.Context(), "cpu", receipt); err != nil {
			w.t.Fatal(err)
		}
	}
}

// logged is what the workers have logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// count returns how many lines contain s.
func (l *logged) count(s string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}

// logOf reads a stream of the promise's last attempt as a reader does: from
// the record where it is whole there, else from the chunks, which must not
// overlap.
func (w *world) logOf(rec promise.Record, name string) string {
	w.t.Helper()
	s := rec.Outcome.Stdout
	if name == "stderr" {
		s = rec.Outcome.Stderr
	}
	if rec.Outcome.Version != 0 && int64(len(s.Tail)) == s.Size {
		return string(s.Tail)
	}
	prefix := blob.LogPrefix(rec.ID, rec.Task.Version, name)
	infos, err := w.blobs.List(w.t.Context(), prefix)
	if err != nil {
		w.t.Fatal(err)
	}
	var all strings.Builder
	next := int64(0)
	for _, info := range infos {
		offset, err := strconv.ParseInt(strings.TrimPrefix(info.Key, prefix), 10, 64)
		if err != nil || offset < next {
			w.t.Fatalf("chunk %s begins before %d (%v)", info.Key, next, err)
		}
		if offset > next {
			all.WriteString("…")
		}
		src, err := w.blobs.Get(w.t.Context(), info.Key, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		n, err := io.Copy(&all, src)
		if err != nil {
			w.t.Fatal(err)
		}
		next = offset + n
	}
	return all.String()
}
