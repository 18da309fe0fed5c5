package sim

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// storeOf is the store as one process reaches it. Each call takes a moment on
// its way there and back, in which anything may happen.
type storeOf struct{ p *process }

var _ store.Store = storeOf{}

// travel is one way of a call. A process that is to be killed after so many
// calls dies here.
func (p *process) travel(back bool) {
	w := p.w
	a := w.actor()
	d := time.Millisecond * time.Duration(w.rng.IntN(4))
	if w.chance(0.03) {
		d = w.upTo(500 * time.Millisecond)
	}
	a.sleep(d)
	if home := a.proc; home != nil && back && home.ops > 0 {
		if home.ops--; home.ops == 0 {
			w.faults["crash_after_call"]++
			home.kill(a)
		}
	}
}

// away reports whether the ports are out of reach, for everybody or for p.
func (p *process) away() bool {
	w := p.w
	switch {
	case w.outage.holds(w.now):
		w.faults["store_outage"]++
	case p.cut > w.now:
		w.faults["partition"]++
	default:
		return false
	}
	return true
}

// read is a call that changes nothing.
func (s storeOf) read(name, id string, do func() error) error {
	s.p.travel(false)
	err, often := errLost, 0.08
	if s.p.w.opt.crowd > 0 {
		often = 0.001 // 80 in a row are to go well
	}
	if !s.p.away() && !s.p.w.fault("read_lost", often) {
		err = do()
	}
	s.p.travel(true)
	s.p.w.note("%s %s %s: %v", s.p.name, name, id, err)
	return err
}

// write is a call that changes something, or is refused.
func (s storeOf) write(name, id string, do func() error) error {
	w := s.p.w
	s.p.travel(false)
	err := errLost
	switch {
	case s.p.away():
	case w.throttles() || w.fault("throttled", 0.015):
		err = store.ErrThrottled
	case w.fault("write_failed", 0.025):
	case w.fault("write_persisted", 0.02):
		if got := do(); got != nil {
			err = got
		}
	case w.fault("write_doubled", 0.01): // sent again below the adapter
		if err = do(); err == nil {
			err = do()
		}
	case w.fault("write_late", 0.01): // it arrives when nobody counts on it
		at := w.now.Add(w.upTo(40 * time.Second))
		w.start("late write", nil, func(a *actor) {
			a.until(at)
			w.note("late %s %s: %v", name, id, do())
		})
	default:
		err = do()
	}
	w.note("%s %s %s: %v", s.p.name, name, id, err)
	s.p.travel(true)
	return err
}

func (w *world) throttles() bool {
	burst := slices.ContainsFunc(w.bursts, func(v window) bool { return v.holds(w.now) })
	often := 0.5
	if w.opt.storm > 0 {
		often = 0.95
	}
	return burst && w.fault("throttle_burst", often)
}

// Create implements [store.Store].
func (s storeOf) Create(ctx context.Context, rec promise.Record) error {
	return s.write("create", rec.ID, func() error { return s.p.w.replaceAll(ctx, []store.Write{{Record: rec}}) })
}

// Replace implements [store.Store].
func (s storeOf) Replace(ctx context.Context, next promise.Record) error {
	return s.write("replace", next.ID, func() error { return s.p.w.replaceAll(ctx, []store.Write{{Record: next}}) })
}

// ReplaceAll implements [store.Store].
func (s storeOf) ReplaceAll(ctx context.Context, writes []store.Write) error {
	return s.write("replace all", writes[len(writes)-1].Record.ID, func() error { return s.p.w.replaceAll(ctx, writes) })
}

// replaceAll is where a write happens, and is looked at.
func (w *world) replaceAll(ctx context.Context, writes []store.Write) error {
	was := make([]promise.Record, len(writes))
	for n, write := range writes {
		was[n] = w.records[write.Record.ID]
	}
	if w.opt.mutant.is(oneByOne) && len(writes) > 1 {
		for _, write := range writes {
			if err := w.replaceAll(ctx, []store.Write{write}); err != nil {
				return err
			}
		}
		return nil
	}
	was, writes = w.opt.mutant.mutate(was, writes)
	if err := w.memory.ReplaceAll(ctx, writes); err != nil {
		return err
	}
	for _, write := range writes {
		if !write.Check {
			w.observe(write.Record)
		}
	}
	w.checkSuspended(was, writes)
	return nil
}

// Get implements [store.Store].
func (s storeOf) Get(ctx context.Context, id string) (rec promise.Record, err error) {
	err = s.read("get", id, func() (err error) {
		rec, err = s.p.w.memory.Get(ctx, id)
		return err
	})
	return rec, err
}

// Children implements [store.Store].
func (s storeOf) Children(ctx context.Context, id, after string, limit int) (recs []promise.Record, err error) {
	err = s.read("children", id, func() (err error) {
		recs, err = s.p.w.memory.Children(ctx, id, after, limit)
		return err
	})
	return recs, err
}

// Due implements [store.Store] by an index that lags.
func (s storeOf) Due(_ context.Context, now promise.Time, limit int) (ids []string, err error) {
	w := s.p.w
	err = s.read("due", "", func() error {
		for _, id := range w.order {
			if due := w.indexed(id); due > 0 && due <= now && len(ids) < limit {
				ids = append(ids, id)
			}
		}
		return nil
	})
	return ids, err
}

// List implements [store.Store]; nobody here lists.
func (s storeOf) List(context.Context, store.Query) (store.Page, error) {
	return store.Page{}, errors.New("not in this simulation")
}

// indexed is what the index says of id, which may be as old as the lag.
func (w *world) indexed(id string) promise.Time {
	h := w.history[id]
	for len(h) > 1 && h[1].at.Add(w.lag) <= w.now {
		h = h[1:]
	}
	w.history[id] = h
	if h[0].due != w.records[id].DueAt {
		w.faults["stale_index"]++
	}
	if h[0].at.Add(w.lag) > w.now {
		return 0 // its first entry has not come yet
	}
	return h[0].due
}

// indexing is one entry of the index's history.
type indexing struct{ at, due promise.Time }

// blobsOf is the blobs as one process reaches them.
type blobsOf struct {
	*blob.Memory
	p *process
}

// Put implements [blob.Blobs].
func (b blobsOf) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	w := b.p.w
	b.p.travel(false)
	if b.p.away() || w.fault("blob_failed", 0.08) {
		return errLost
	}
	body, err := io.ReadAll(src)
	if err != nil {
		return err
	}
	if err := b.Memory.Put(ctx, key, strings.NewReader(string(body)), size, sum); err != nil {
		return err
	}
	b.p.travel(true)
	if w.fault("blob_persisted", 0.08) {
		return errLost
	}
	return nil
}
