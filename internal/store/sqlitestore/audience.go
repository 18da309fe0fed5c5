package sqlitestore

import (
	"context"
	"sync"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
)

// Follow is that of [store.Audience]. The note goes to every process that has
// the file open, by its bell, and nowhere else: it stands on no disk.
func (s *Store) Follow(ctx context.Context, id string, until promise.Time) error {
	return ours(s.db.Write(ctx, func(tx *sqlite.Tx) error {
		tx.Note(sqlite.Note{Kind: sqlite.Followed, Name: id, At: int64(until)})
		return nil
	}))
}

// Followed is that of [store.Audience].
func (s *Store) Followed(ctx context.Context, id string) (promise.Time, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return s.followed.until(id), nil
}

// maxFollowed is how many notes are kept: a lost one is made again soon.
const maxFollowed = 4096

// followed is what this process has heard of who follows what.
type followed struct {
	mu    sync.Mutex
	notes map[string]promise.Time
}

func (f *followed) note(id string, until promise.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notes == nil || len(f.notes) >= maxFollowed {
		f.notes = make(map[string]promise.Time)
	}
	f.notes[id] = until
}

func (f *followed) until(id string) promise.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notes[id]
}
