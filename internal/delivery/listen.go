package delivery

import (
	"context"
	"errors"
	"maps"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/promise"
)

// watchTime is how long one wait for an end takes at most.
const watchTime = time.Hour

// Listening is that of [protocol.Delivery]: the promise is watched until its
// end, by whichever process that comes.
func (h *Hub) Listening(id string, a promise.Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return
	}
	watched := len(h.ears[id]) > 0
	if !watched {
		h.ears[id] = make(map[promise.Address]bool)
	}
	h.ears[id][a] = true
	if !watched {
		h.works.Go(func() { h.watch(id) })
	}
}

// watch waits for the end of a promise and tells who listens. It ends with the
// promise, or with the process: who listens registers again.
func (h *Hub) watch(id string) {
	w := h.Engine.WatchEnd(id)
	defer w.Stop()
	for pause := time.Duration(0); ; {
		rec, err := h.Engine.Get(h.ctx, id)
		if err == nil {
			rec, err = w.Wait(h.ctx, rec, watchTime)
		}
		switch {
		case h.ctx.Err() != nil:
			return
		case errors.Is(err, promise.ErrNotFound):
			h.mu.Lock()
			delete(h.ears, id)
			h.mu.Unlock()
			return
		case err != nil:
			pause = min(2*pause+100*time.Millisecond, 30*time.Second)
			wait(h.ctx, pause)
		case rec.State.Terminal():
			h.tell(rec)
			return
		}
	}
}

// Notify is for [engine.Engine.Notify]: it tells those too who registered with
// a process before this one.
func (h *Hub) Notify(id, address string) {
	a, ok := promise.ParseAddress(address)
	h.mu.Lock()
	known := h.ears[id][a]
	h.mu.Unlock()
	if !ok || known {
		return // it is watched
	}
	rec, err := h.Engine.Store.Get(context.Background(), id)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say(a, event{encode(protocol.Unblock(rec)), rec.ID, earOf(a)})
}

// tell tells everyone who listens of an end.
func (h *Hub) tell(rec promise.Record) {
	message := encode(protocol.Unblock(rec))
	h.mu.Lock()
	defer h.mu.Unlock()
	for a := range h.ears[rec.ID] {
		h.say(a, event{message, rec.ID, earOf(a)})
	}
	delete(h.ears, rec.ID)
}

// say tells one of an end, now or when it connects. h.mu is held.
func (h *Hub) say(a promise.Address, e event) {
	if h.offer(a, e) == nil {
		h.unheard(e)
	}
}

// unheard keeps an end for who is not there to hear it, or has too much to read.
// h.mu is held.
func (h *Hub) unheard(e event) {
	h.forget()
	if h.unsaid[e.to] == nil {
		h.unsaid[e.to] = make(map[string]ended)
	}
	if len(h.unsaid[e.to]) < maxUnsaid {
		h.unsaid[e.to][e.ended] = ended{e.body, time.Now()}
	}
}

// forget drops now and then what nobody came to hear of. h.mu is held.
func (h *Hub) forget() {
	if time.Since(h.forgotAt) < forgetAfter {
		return
	}
	h.forgotAt = time.Now()
	for of, ends := range h.unsaid {
		maps.DeleteFunc(ends, func(_ string, end ended) bool { return time.Since(end.at) > forgetAfter })
		if len(ends) == 0 {
			delete(h.unsaid, of)
		}
	}
}

// missed gives c what it was not there to hear, as far as it has room. h.mu is
// held.
func (h *Hub) missed(c *conn) {
	for _, to := range []ear{c.ear, {group: c.group}} {
		for id, end := range h.unsaid[to] {
			if !c.put(event{end.message, id, to}) {
				return
			}
			delete(h.unsaid[to], id)
		}
		delete(h.unsaid, to)
	}
}
