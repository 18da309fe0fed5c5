package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"modulate/internal/promise"
)

// Memory is a [Store], [Watcher] and [Roster] that keeps everything in memory,
// for tests. Records are kept encoded, so that nothing is shared with callers
// and nothing survives that the stored form would lose. It starts no goroutine.
type Memory struct {
	Watches

	mu       sync.Mutex
	items    map[string]item
	workers  map[string]Presence
	machines map[string]bool
	followed map[string]promise.Time
}

// item is one record: its stored form, and beside it what the schema says.
type item struct {
	Position
	rev     uint64
	due     promise.Time
	machine string
	record  []byte
}

var (
	_ Store   = (*Memory)(nil)
	_ Watcher = (*Memory)(nil)
	_ Roster  = (*Memory)(nil)

	_ Audience = (*Memory)(nil)
	_ Searcher = (*Memory)(nil)
)

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{
		items:    make(map[string]item),
		workers:  make(map[string]Presence),
		machines: make(map[string]bool),
		followed: make(map[string]promise.Time),
	}
}

// Create is that of [Store].
func (m *Memory) Create(ctx context.Context, rec promise.Record) error {
	if rec.Rev != 1 {
		return fmt.Errorf("creating %s: its rev is %d, not 1", rec.ID, rec.Rev)
	}
	return m.ReplaceAll(ctx, []Write{{Record: rec}})
}

// Get is that of [Store].
func (m *Memory) Get(ctx context.Context, id string) (promise.Record, error) {
	if err := ctx.Err(); err != nil {
		return promise.Record{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	it, ok := m.items[id]
	if !ok {
		return promise.Record{}, ErrNotFound
	}
	return Decode(it.record)
}

// Replace is that of [Store].
func (m *Memory) Replace(ctx context.Context, next promise.Record) error {
	if next.Rev < 2 {
		return fmt.Errorf("replacing %s: its rev is %d, below 2", next.ID, next.Rev)
	}
	return m.ReplaceAll(ctx, []Write{{Record: next}})
}

// ReplaceAll is that of [Store].
func (m *Memory) ReplaceAll(ctx context.Context, writes []Write) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := CheckWrites(writes); err != nil {
		return err
	}
	items := make([]item, len(writes))
	for i, w := range writes {
		b, err := Encode(&w.Record)
		if err != nil {
			return err
		}
		items[i] = item{PositionOf(w.Record), w.Record.Rev, w.Record.DueAt, w.Record.Machine, b}
	}
	if err := m.swap(writes, items); err != nil {
		return err
	}
	for _, w := range writes {
		if !w.Check {
			m.Changed(w.Record.ID, w.Record.State.Terminal())
		}
	}
	return nil
}

// swap does all of writes, whose items are given, if every guard holds.
func (m *Memory) swap(writes []Write, items []item) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range writes {
		stored := m.items[w.Record.ID] // zero: at rev 0, which nothing has
		if w.Holds(stored.rev) {
			continue
		}
		if stored.rev == 0 {
			return &Refused{}
		}
		rec, err := Decode(stored.record)
		if err != nil {
			return err
		}
		return &Refused{Stored: rec}
	}
	for i, w := range writes {
		if !w.Check {
			m.items[w.Record.ID] = items[i]
		}
	}
	return nil
}

// Due is that of [Store].
func (m *Memory) Due(ctx context.Context, now promise.Time, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.find(func(it item) bool { return it.due > 0 && it.due <= now })
	slices.SortFunc(found, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.ID, b.ID))
	})
	var ids []string
	for _, it := range found[:min(len(found), max(limit, 0))] {
		ids = append(ids, it.ID)
	}
	return ids, nil
}

// List is that of [Store].
func (m *Memory) List(ctx context.Context, q Query) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, context.Cause(ctx)
	}
	after, err := q.Check()
	if err != nil {
		return Page{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.find(func(it item) bool {
		return it.Compare(after) > 0 && it.CreatedAt >= q.Since &&
			(q.Machine == "" || it.machine == q.Machine) && strings.HasPrefix(it.ID, q.Prefix)
	})
	slices.SortFunc(found, func(a, b item) int { return a.Compare(b.Position) })
	var page Page
	for _, it := range found {
		rec, err := Decode(it.record)
		if err != nil {
			return Page{}, err
		}
		if !q.Matches(rec) {
			continue
		}
		if len(page.Records) >= q.Limit {
			page.Cursor = PositionOf(page.Records[len(page.Records)-1]).Cursor()
			break
		}
		page.Records = append(page.Records, rec)
	}
	return page, nil
}

// Children is that of [Store].
func (m *Memory) Children(ctx context.Context, id, after string, limit int) ([]promise.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ascending(limit, func(it item) bool {
		return it.ID > after && (strings.HasPrefix(it.ID, id+".") || strings.HasPrefix(it.ID, id+":"))
	})
}

// Search is that of [Searcher].
func (m *Memory) Search(ctx context.Context, after string, limit int) ([]promise.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ascending(limit, func(it item) bool { return it.ID > after })
}

// ascending returns the first records that match, by id. m.mu is held.
func (m *Memory) ascending(limit int, match func(item) bool) ([]promise.Record, error) {
	found := m.find(match)
	slices.SortFunc(found, func(a, b item) int { return cmp.Compare(a.ID, b.ID) })
	var recs []promise.Record
	for _, it := range found[:min(len(found), max(limit, 0))] {
		rec, err := Decode(it.record)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// Wipe removes every promise, for tests of the protocol.
func (m *Memory) Wipe(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.items)
	return nil
}

// find returns the items that match, in no order. m.mu is held.
func (m *Memory) find(match func(item) bool) []item {
	var found []item
	for _, it := range m.items {
		if match(it) {
			found = append(found, it)
		}
	}
	return found
}

// Announce is that of [Roster].
func (m *Memory) Announce(ctx context.Context, p Presence) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers[p.Worker] = p
	m.machines[p.Machine] = true
	return nil
}

// Retire is that of [Roster].
func (m *Memory) Retire(ctx context.Context, worker string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, worker)
	return nil
}

// Present is that of [Roster].
func (m *Memory) Present(ctx context.Context, since promise.Time) ([]Presence, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var present []Presence
	for _, p := range m.workers {
		if p.Seen >= since {
			present = append(present, p)
		}
	}
	slices.SortFunc(present, func(a, b Presence) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Worker, b.Worker))
	})
	return present, nil
}

// Machines is that of [Roster].
func (m *Memory) Machines(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.machines)), nil
}

// Follow is that of [Audience].
func (m *Memory) Follow(ctx context.Context, id string, until promise.Time) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.followed[id] = until
	return nil
}

// Followed is that of [Audience].
func (m *Memory) Followed(ctx context.Context, id string) (promise.Time, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.followed[id], nil
}
