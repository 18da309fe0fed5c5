// Package delivery brings the tasks of other programs to their workers, and the
// ends of promises to who listens: the half of the Resonate protocol in which
// the server speaks. Workers connect by `GET /poll/{group}/{pid}`, a stream of
// server-sent events, and take and settle by package protocol's door.
//
// Nothing is kept here that cannot be lost. The messages of a group stay in its
// queue, hidden, until their task is held no longer; a worker that connects late
// finds them there. One that goes away leaves them to the next.
package delivery

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// Times of a delivery.
const (
	takeTime    = 10 * time.Second // within which a worker takes what it was sent; then twice as long, up to 64 times
	absentTime  = 5 * time.Second  // until a task is offered again whose worker is not connected
	leaseSlack  = time.Second      // by which a message comes back after its task's lease
	maxHide     = 11 * time.Hour   // a message is hidden for 12 hours at most
	forgetAfter = 10 * time.Minute // an end that nobody came to hear of, or up to twice as long
)

// maxUnsaid is how many ends are kept for one that is not there, or does not
// read. Who misses one registers again and is answered with it.
const maxUnsaid = 10_000

// Config is what a Hub needs.
type Config struct {
	Engine *engine.Engine
	URL    string       // where workers take what they are sent; "": they know
	Held   string       // file that keeps who holds which task; "": it is not kept
	Log    *slog.Logger // nil: discarded
}

// A Hub is where workers are connected. Its methods may be called from any
// goroutine.
type Hub struct {
	Config
	held  *held
	ctx   context.Context // until Close
	stop  context.CancelFunc
	works sync.WaitGroup // what receives and watches; added to under mu, before Close

	mu       sync.Mutex
	groups   map[string]*group
	sent     map[string]*sent                    // by the stored id of the task
	ears     map[string]map[promise.Address]bool // who listens, by the stored id
	unsaid   map[ear]map[string]ended            // ends that nobody was there to hear
	forgotAt time.Time                           // when unsaid was looked through
}

var _ protocol.Delivery = (*Hub)(nil)

// ear is a worker that listens, or with an empty id any of its group.
type ear struct{ group, id string }

func earOf(a promise.Address) ear {
	if a.Only {
		return ear{a.Group, a.ID}
	}
	return ear{group: a.Group}
}

func (e ear) address() promise.Address {
	return promise.Address{Group: e.group, ID: e.id, Only: e.id != ""}
}

// ended is an end that is to be told.
type ended struct {
	message []byte
	at      time.Time
}

// sent is a message of a queue that was sent on, or whose task is held: at that
// version, or once it is taken.
type sent struct {
	queue, receipt string
	version        uint64
	to             *conn
	taken          bool
}

// group is the workers of a name that are connected.
type group struct {
	conns []*conn
	next  int // whose turn it is
	stop  context.CancelFunc
}

// New returns a Hub. Close ends it.
func New(c Config) (*Hub, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		Config: c, groups: make(map[string]*group), sent: make(map[string]*sent),
		ears: make(map[string]map[promise.Address]bool), unsaid: make(map[ear]map[string]ended),
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	var err error
	h.held, err = openHeld(c.Held)
	return h, err
}

// Close ends what New has begun. The connections must have ended.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.stop()
	h.mu.Unlock()
	h.works.Wait()
	return h.held.close()
}

// receive hands the messages of a group to its workers until ctx ends.
func (h *Hub) receive(ctx context.Context, name string) {
	for pause := time.Duration(0); ctx.Err() == nil; {
		got, err := h.Engine.Queue.Receive(ctx, promise.SDKQueue+name, queue.MaxReceive, takeTime, queue.MaxWait)
		if err != nil && ctx.Err() == nil {
			pause = min(2*pause+100*time.Millisecond, 30*time.Second)
			level := slog.LevelWarn
			if errors.Is(err, queue.ErrNoQueue) { // a group that only listens
				level = slog.LevelDebug
			}
			h.Log.Log(ctx, level, "a group's queue does not answer", "group", name, "error", err)
			wait(ctx, rand.N(pause))
			continue
		}
		pause = 0
		for _, d := range got {
			if err := h.handle(context.WithoutCancel(ctx), name, d); err != nil {
				h.Log.WarnContext(ctx, "a message is left in its queue", "group", name, "error", err)
			}
		}
	}
}

// handle does with one message what its task's record asks for.
func (h *Hub) handle(ctx context.Context, name string, d queue.Delivery) error {
	q := promise.SDKQueue + name
	m, err := queue.Decode(d.Body)
	switch {
	case errors.Is(err, queue.ErrNewer):
		return h.Engine.Queue.Extend(ctx, q, d.Receipt, time.Minute)
	case err != nil:
		return h.Engine.Queue.Bury(ctx, q, d)
	}
	rec, err := h.Engine.Apply(ctx, m.ID, promise.Tick{})
	if errors.Is(err, promise.ErrNotFound) {
		return h.Engine.Queue.Delete(ctx, q, d.Receipt)
	}
	if err != nil {
		return err
	}
	now := h.Engine.Time()
	switch {
	case rec.Machine != q && !rec.State.Terminal(): // an alarm that was early: its task, if any, is in another queue
		return h.Engine.Queue.Extend(ctx, q, d.Receipt, min(rec.DeadlineAt.Sub(now)+leaseSlack, maxHide))
	case rec.Task.State == promise.TaskAcquired:
		h.keep(ctx, m.ID, &sent{queue: q, receipt: d.Receipt, version: rec.Task.Version, taken: true})
		return h.Engine.Queue.Extend(ctx, q, d.Receipt, min(rec.Task.LeaseEnd.Sub(now)+leaseSlack, maxHide))
	case rec.Task.State != promise.TaskPending:
		h.Left(m.ID, rec.Task.Version) // by another process's doing
		return h.Engine.Queue.Delete(ctx, q, d.Receipt)
	case rec.NotBefore > now:
		return h.Engine.Queue.Extend(ctx, q, d.Receipt, min(rec.NotBefore.Sub(now), maxHide))
	}
	return h.send(ctx, rec, d)
}

// send sends a pending task to a worker, or has it offered again soon.
func (h *Hub) send(ctx context.Context, rec promise.Record, d queue.Delivery) error {
	address, _ := promise.ParseAddress(rec.Tag(promise.TagTarget)) // or it would be in no group's queue
	s := &sent{queue: rec.Machine, receipt: d.Receipt, version: rec.Task.Version + 1}
	body := encode(protocol.Execute(promise.DecodeID(rec.ID), rec.Task.Version, h.URL))
	h.mu.Lock()
	s.to = h.offer(address, event{body: body})
	if s.to == nil {
		h.mu.Unlock()
		return h.Engine.Queue.Extend(ctx, rec.Machine, d.Receipt, absentTime)
	}
	old := h.replace(rec.ID, s) // before the worker can have taken it
	h.mu.Unlock()
	h.delete(ctx, old)
	if d.Receives < 2 {
		return nil // it is hidden for takeTime
	}
	// A worker may have let it go, as SDKs do with what only waits for its end.
	return h.Engine.Queue.Extend(ctx, rec.Machine, d.Receipt, takeTime<<min(d.Receives-1, 6))
}

// keep remembers a message; one that it takes the place of has had its time.
func (h *Hub) keep(ctx context.Context, id string, s *sent) {
	h.mu.Lock()
	old := h.replace(id, s)
	h.mu.Unlock()
	h.delete(ctx, old)
}

// replace remembers a message and returns the other one that there was. h.mu is
// held.
func (h *Hub) replace(id string, s *sent) (old *sent) {
	old = h.sent[id]
	h.sent[id] = s
	if old != nil && old.receipt == s.receipt {
		return nil
	}
	return old
}

// delete ends a message; nil is none.
func (h *Hub) delete(ctx context.Context, s *sent) {
	if s == nil {
		return
	}
	if err := h.Engine.Queue.Delete(ctx, s.queue, s.receipt); err != nil && !errors.Is(err, queue.ErrReceipt) {
		h.Log.DebugContext(ctx, "a message stays for now", "error", err)
	}
}

// offer gives an event to a worker that the address names. nil: there is none
// that takes it. h.mu is held.
func (h *Hub) offer(a promise.Address, e event) *conn {
	g := h.groups[a.Group]
	if g == nil {
		return nil
	}
	for _, c := range g.conns {
		if c.ear.id == a.ID && a.ID != "" && c.put(e) {
			return c
		}
	}
	if a.Only {
		return nil
	}
	for range g.conns {
		c := g.conns[g.next%len(g.conns)]
		g.next++
		if c.put(e) {
			return c
		}
	}
	return nil
}

// Acquired is that of [protocol.Delivery]: the message follows the lease.
func (h *Hub) Acquired(id string, version uint64, pid string, ttl time.Duration) {
	h.held.acquired(id, version, pid)
	h.mu.Lock()
	s := h.sent[id]
	if s != nil {
		s.taken, s.version = true, version
	}
	h.mu.Unlock()
	if s != nil {
		ctx, stop := context.WithTimeout(context.Background(), takeTime)
		defer stop()
		if err := h.Engine.Queue.Extend(ctx, s.queue, s.receipt, min(ttl+leaseSlack, maxHide)); err != nil {
			h.Log.DebugContext(ctx, "a message comes back early", "id", id, "error", err)
		}
	}
}

// Left is that of [protocol.Delivery]: the message has done its work, unless it
// is of a later version. The task may have been given to the next already.
func (h *Hub) Left(id string, version uint64) {
	h.held.left(id, version)
	h.mu.Lock()
	s := h.sent[id]
	if s != nil && s.version > version {
		s = nil
	} else {
		delete(h.sent, id)
	}
	h.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), takeTime)
	defer stop()
	h.delete(ctx, s)
}

// Held is that of [protocol.Delivery].
func (h *Hub) Held(pid string) []protocol.Held { return h.held.of(pid) }

// wait returns after d, or at ctx's end.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
