package protocol

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// Debug is what a server in debug mode needs: nothing happens there by itself,
// messages stay where they can be looked at, and the clock is the caller's.
type Debug struct {
	// Wipe forgets everything that is stored.
	Wipe func(ctx context.Context) error

	mu       sync.Mutex
	executes map[string]uint64 // the version sent last of each task
	unblocks map[[2]string]bool
}

// engine returns an engine whose messages are kept, at a time of the caller's
// if it is given.
func (d *Debug) engine(e *engine.Engine, at *int64) *engine.Engine {
	kept := *e
	kept.Queue = outbox{e.Queue, d}
	kept.Notify = d.notify
	if at != nil {
		now := promise.Time(*at)
		kept.Now = func() promise.Time { return now }
	}
	return &kept
}

// outbox is a queue whose messages to groups stay.
type outbox struct {
	queue.Queue
	debug *Debug
}

// Send keeps a message: of each task the last.
func (o outbox) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	if !strings.HasPrefix(machine, promise.SDKQueue) {
		return o.Queue.Send(ctx, machine, body, delay)
	}
	m, err := queue.Decode(body)
	if err != nil {
		return err
	}
	o.debug.mu.Lock()
	defer o.debug.mu.Unlock()
	if o.debug.executes == nil {
		o.debug.executes = make(map[string]uint64)
	}
	o.debug.executes[m.ID] = m.Version
	return nil
}

func (d *Debug) notify(id, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unblocks == nil {
		d.unblocks = make(map[[2]string]bool)
	}
	d.unblocks[[2]string{id, address}] = true
}

// debugNothing answers debug.start and debug.stop: nothing runs by itself.
func (c *call) debugNothing() (reply, error) { return empty, nil }

func (c *call) debugReset() (reply, error) {
	c.Debug.mu.Lock()
	c.Debug.executes, c.Debug.unblocks = nil, nil
	c.Debug.mu.Unlock()
	return empty, c.Debug.Wipe(c.ctx)
}

// debugTick lets everything happen that is due at a time.
func (c *call) debugTick() (reply, error) {
	var in struct {
		Time *int64 `json:"time"`
	}
	if err := read(c.data, &in); err != nil {
		return reply{}, err
	}
	if in.Time == nil || *in.Time < 0 {
		return reply{}, invalid("Invalid data: time is needed")
	}
	c.engine = c.Debug.engine(c.Engine, in.Time)
	for {
		ids, err := c.engine.Store.Due(c.ctx, promise.Time(*in.Time), looked)
		if err != nil {
			return reply{}, err
		}
		if len(ids) == 0 {
			return reply{data: []any{}}, nil
		}
		for _, id := range ids {
			if _, err := c.engine.Apply(c.ctx, id, promise.Tick{}); err != nil {
				return reply{}, err
			}
		}
	}
}

// snapshot is the answer to debug.snap.
type snapshot struct {
	Promises        []promiseView    `json:"promises"`
	PromiseTimeouts []map[string]any `json:"promiseTimeouts"`
	Callbacks       []map[string]any `json:"callbacks"`
	Listeners       []map[string]any `json:"listeners"`
	Tasks           []taskView       `json:"tasks"`
	TaskTimeouts    []map[string]any `json:"taskTimeouts"`
	Messages        []map[string]any `json:"messages"`
}

func (c *call) debugSnap() (reply, error) {
	var all []promise.Record
	for after := ""; ; {
		found, cursor, err := c.search(after, maxPage, func(promise.Record) bool { return true })
		if err != nil {
			return reply{}, err
		}
		all = append(all, found...)
		if cursor == nil {
			return reply{data: c.Debug.snap(all)}, nil
		}
		after = promise.EncodeID(*cursor)
	}
}

// snap shows records, and the messages that wait.
func (d *Debug) snap(all []promise.Record) snapshot {
	s := snapshot{
		Promises: []promiseView{}, PromiseTimeouts: []map[string]any{}, Callbacks: []map[string]any{},
		Listeners: []map[string]any{}, Tasks: []taskView{}, TaskTimeouts: []map[string]any{}, Messages: []map[string]any{},
	}
	ended := map[string]bool{}
	for _, rec := range all {
		ended[rec.ID] = rec.State.Terminal()
	}
	byID := map[string]promise.Record{}
	for _, rec := range all {
		byID[rec.ID] = rec
		id := promise.DecodeID(rec.ID)
		s.Promises = append(s.Promises, view(rec))
		if !rec.State.Terminal() {
			s.PromiseTimeouts = append(s.PromiseTimeouts, map[string]any{"id": id, "timeout": int64(rec.DeadlineAt)})
		}
		if rec.Task.State != promise.TaskNone {
			s.Tasks = append(s.Tasks, taskOf(rec))
		}
		switch rec.Task.State {
		case promise.TaskPending:
			s.TaskTimeouts = append(s.TaskTimeouts, map[string]any{"id": id, "type": 0, "timeout": int64(rec.ResendAt)})
		case promise.TaskAcquired:
			s.TaskTimeouts = append(s.TaskTimeouts, map[string]any{"id": id, "type": 1, "timeout": int64(rec.Task.LeaseEnd)})
		}
		if rec.Protocol == nil {
			continue
		}
		for _, awaiter := range slices.Sorted(slices.Values(rec.Protocol.Callbacks)) {
			if !ended[awaiter] {
				s.Callbacks = append(s.Callbacks, map[string]any{"awaiter": promise.DecodeID(awaiter), "awaited": id})
			}
		}
		for _, address := range slices.Sorted(slices.Values(rec.Protocol.Listeners)) {
			s.Listeners = append(s.Listeners, map[string]any{"id": id, "address": address})
		}
	}
	s.Messages = d.messages(byID)
	return s
}

// messages are those that wait, by whom they are for.
func (d *Debug) messages(byID map[string]promise.Record) []map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := []map[string]any{}
	for id, version := range d.executes {
		all = append(all, map[string]any{"address": byID[id].Tag(promise.TagTarget), "message": Execute(promise.DecodeID(id), version, "")})
	}
	for key := range d.unblocks {
		all = append(all, map[string]any{"address": key[1], "message": Unblock(byID[key[0]])})
	}
	slices.SortFunc(all, func(a, b map[string]any) int { return strings.Compare(text(a), text(b)) })
	return all
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // made of strings and numbers
		panic(err)
	}
	return string(b)
}

// Message is what a worker is sent.
type Message struct {
	Kind string         `json:"kind"`
	Head map[string]any `json:"head"`
	Data map[string]any `json:"data"`
}

// Execute asks a worker to take a task at that version. serverURL is where it
// is to be taken; "": the worker knows.
func Execute(id string, version uint64, serverURL string) Message {
	head := map[string]any{}
	if serverURL != "" {
		head["serverUrl"] = serverURL
	}
	return Message{"execute", head, map[string]any{"task": map[string]any{"id": id, "version": version}}}
}

// Unblock tells who listens of a promise's end.
func Unblock(rec promise.Record) Message {
	return Message{"unblock", map[string]any{}, map[string]any{"promise": view(rec)}}
}
