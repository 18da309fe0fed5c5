package read

import (
	"context"
	"sync"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// noteTime is for one note: who follows waits for it.
const noteTime = 2 * time.Second

// notes tells the audience who follows whose output, each promise once in
// [store.FollowEvery].
type notes struct {
	audience store.Audience // nil: nobody asks

	mu   sync.Mutex
	next map[string]promise.Time // when a promise is to be noted again
}

// follow notes that somebody follows id's output. A note that is lost is made
// again at the next look.
func (n *notes) follow(ctx context.Context, e *engine.Engine, id string) {
	if n.audience == nil || !n.due(id, e.Time()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := n.audience.Follow(ctx, id, e.Time().Add(store.FollowTTL)); err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.next, id)
	}
}

// due reports whether id is to be noted now, and takes it as noted.
func (n *notes) due(id string, now promise.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now < n.next[id] {
		return false
	}
	if n.next == nil {
		n.next = make(map[string]promise.Time)
	}
	if len(n.next) >= maxEdges {
		clear(n.next)
	}
	n.next[id] = now.Add(store.FollowEvery)
	return true
}
