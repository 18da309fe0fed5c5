package store

import (
	"slices"
	"sync"
)

// Watches is the in-process half of a [Watcher]: who waits for which record.
// The zero value is ready.
type Watches struct {
	mu   sync.Mutex
	byID map[string][]watch
}

// watch is who waits for one record.
type watch struct {
	changed chan struct{} // capacity 1
	endOnly bool
}

// Watch is that of [Watcher].
func (w *Watches) Watch(id string) (changed <-chan struct{}, stop func()) {
	return w.watch(id, false)
}

// WatchEnd is that of [Watcher].
func (w *Watches) WatchEnd(id string) (ended <-chan struct{}, stop func()) {
	return w.watch(id, true)
}

func (w *Watches) watch(id string, endOnly bool) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byID == nil {
		w.byID = make(map[string][]watch)
	}
	w.byID[id] = append(w.byID[id], watch{ch, endOnly})
	return ch, func() { w.drop(id, ch) }
}

func (w *Watches) drop(id string, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := slices.DeleteFunc(w.byID[id], func(one watch) bool { return one.changed == ch })
	if len(left) == 0 {
		delete(w.byID, id)
		return
	}
	w.byID[id] = left
}

// Changed wakes who watches id; who waits for its end, only if it has ended.
func (w *Watches) Changed(id string, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.byID[id] {
		if ended || !one.endOnly {
			wake(one.changed)
		}
	}
}

// AllChanged wakes everyone: something changed and nobody knows what.
func (w *Watches) AllChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, watches := range w.byID {
		for _, one := range watches {
			wake(one.changed)
		}
	}
}

// wake leaves a signal in ch, unless one is waiting there already.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
