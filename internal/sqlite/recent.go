package sqlite

import (
	"sync"
	"sync/atomic"
)

// recentBytes bounds each half of what recent keeps.
const recentBytes = 2 << 20

// recent holds what this process wrote last, so that reading it back costs no
// query. What it returns is what is stored at that moment:
//
//   - while another process commits, and after it has, the file's generation
//     is not the one that the entries belong to;
//   - while this process commits, what is being written is not here.
type recent struct {
	generation *atomic.Uint64 // nil once the file is closed

	mu    sync.Mutex
	at    uint64 // the generation that the entries belong to
	young map[string]entry
	old   map[string]entry // what young was before it was full
	bytes int              // in young
}

func newRecent(generation *atomic.Uint64) *recent {
	return &recent{generation: generation, at: generation.Load(), young: make(map[string]entry)}
}

// get returns what was kept under key, if it is certainly stored still.
func (r *recent) get(key string) (value any, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.young[key]
	if !ok {
		e, ok = r.old[key]
	}
	return e.value, ok && r.generation != nil && r.generation.Load() == r.at
}

// committing says that a transaction which holds the write lock is about to
// commit what is in kept.
func (r *recent) committing(kept []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		now := r.generation.Load()
		next := now + 1 + now&1 // odd; it was odd already if somebody died committing
		if !r.generation.CompareAndSwap(now, next) {
			continue // another process said late that it is done
		}
		if r.at != now { // others have written
			r.forget()
		}
		r.at = next
		break
	}
	for _, e := range kept {
		delete(r.young, e.key)
		delete(r.old, e.key)
	}
}

// committed says that the commit is over, and what it stored. The write lock
// was free since the commit, so another process may have come in between: then
// nothing that is kept here is certain.
func (r *recent) committed(kept []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.generation.CompareAndSwap(r.at, r.at+1) {
		r.forget()
		return
	}
	r.at++
	for _, e := range kept {
		if e.value == nil {
			continue
		}
		if r.bytes += e.size; r.bytes > recentBytes {
			r.old, r.young, r.bytes = r.young, make(map[string]entry), e.size
		}
		r.young[e.key] = e
	}
}

// forget drops all entries.
func (r *recent) forget() {
	clear(r.young)
	r.old, r.bytes = nil, 0
}

// end forgets everything: the generation is about to be unmapped.
func (r *recent) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation = nil
}

// entry is something to keep; a nil value only to forget what was.
type entry struct {
	key   string
	value any
	size  int // bytes, about
}
