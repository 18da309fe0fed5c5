package delivery

import (
	"context"
	"errors"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/promise"
)

// watchTime is how long one wait for an end takes at most.
const watchTime = time.Hour

// Listening is that of [protocol.Delivery]: the promise is watched until its
// end, by whichever process that comes.
func (h *Hub) Listening(id string, a promise.Address) {
	e := ear{group: a.Group, id: a.ID}
	h.mu.Lock()
	defer h.mu.Unlock()
	watched := len(h.ears[id]) > 0
	if !watched {
		h.ears[id] = make(map[ear]bool)
	}
	h.ears[id][e] = true
	if !watched {
		go h.watch(id)
	}
}

// watch waits for the end of a promise and tells who listens. It ends with the
// promise, or with the process: who listens registers again.
func (h *Hub) watch(id string) {
	ctx := context.Background()
	w := h.Engine.WatchEnd(id)
	defer w.Stop()
	for pause := time.Duration(0); ; {
		rec, err := h.Engine.Get(ctx, id)
		if err == nil {
			rec, err = w.Wait(ctx, rec, watchTime)
		}
		switch {
		case errors.Is(err, promise.ErrNotFound):
			h.mu.Lock()
			delete(h.ears, id)
			h.mu.Unlock()
			return
		case err != nil:
			pause = min(2*pause+100*time.Millisecond, 30*time.Second)
			wait(ctx, pause)
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
	known := h.ears[id][ear{a.Group, a.ID}]
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
	h.say(ear{a.Group, a.ID}, rec.ID, encode(protocol.Unblock(rec)))
}

// tell tells everyone who listens of an end.
func (h *Hub) tell(rec promise.Record) {
	message := encode(protocol.Unblock(rec))
	h.mu.Lock()
	defer h.mu.Unlock()
	for e := range h.ears[rec.ID] {
		h.say(e, rec.ID, message)
	}
	delete(h.ears, rec.ID)
}

// say tells one, now or when it connects. h.mu is held.
func (h *Hub) say(e ear, id string, message []byte) {
	a := promise.Address{Group: e.group, ID: e.id, Only: e.id != ""}
	if h.offer(a, event{message, id}) == nil {
		h.unheard(e, id, message)
	}
}
