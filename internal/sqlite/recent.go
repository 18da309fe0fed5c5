package sqlite

import "sync"

// recentBytes bounds each half of what recent keeps.
const recentBytes = 2 << 20

// recent holds what this process wrote last, so that reading it back costs no
// query. What it returns is what is stored at that moment:
//
//   - while another process commits, and after it has, the file's generation
//     is not the one that the entries belong to;
//   - while this process commits, what is being written is not here.
type recent struct {
	turn *turn

	mu    sync.Mutex
	at    uint64 // the generation that the entries belong to
	young map[string]entry
	old   map[string]entry // what young was before it was full
	bytes int              // in young
}

func newRecent(t *turn) (*recent, error) {
	at, err := t.generation()
	if err != nil {
		return nil, err
	}
	return &recent{turn: t, at: at, young: make(map[string]entry)}, nil
}

// get returns what was kept under key, if it is certainly stored still.
func (r *recent) get(key string) (value any, ok bool) {
	r.mu.Lock()
	at := r.at
	e, ok := r.young[key]
	if !ok {
		e, ok = r.old[key]
	}
	r.mu.Unlock()
	if !ok {
		return nil, false
	}
	now, err := r.turn.generation()
	return e.value, err == nil && now == at
}

// committing says that a transaction which holds the write lock is about to
// commit what is in kept.
func (r *recent) committing(kept []entry) error {
	now, err := r.turn.generation()
	if err != nil {
		return err
	}
	next := now + 1 + now&1 // odd; it was odd already if somebody died committing
	if err := r.turn.setGeneration(next); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at != now { // others have written
		clear(r.young)
		r.old, r.bytes = nil, 0
	}
	r.at = next
	for _, e := range kept {
		delete(r.young, e.key)
		delete(r.old, e.key)
	}
	return nil
}

// committed says that the commit is over, and what it stored.
func (r *recent) committed(kept []entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.turn.setGeneration(r.at + 1); err != nil {
		return err // it stays odd: everybody reads the file
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
	return nil
}

// entry is something to keep; a nil value only to forget what was.
type entry struct {
	key   string
	value any
	size  int // bytes, about
}
