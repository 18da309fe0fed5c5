package store

import "sync"

// Watches is the in-process half of a [Watcher]: who waits for which record.
// The zero value is ready.
type Watches struct {
	mu   sync.Mutex
	byID map[string]map[chan struct{}]bool // true: only for the end
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
		w.byID = make(map[string]map[chan struct{}]bool)
	}
	if w.byID[id] == nil {
		w.byID[id] = make(map[chan struct{}]bool, 1)
	}
	w.byID[id][ch] = endOnly
	return ch, func() { w.drop(id, ch) }
}

func (w *Watches) drop(id string, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byID[id], ch)
	if len(w.byID[id]) == 0 {
		delete(w.byID, id)
	}
}

// Changed wakes who watches id; who waits for its end, only if it has ended.
func (w *Watches) Changed(id string, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch, endOnly := range w.byID[id] {
		if ended || !endOnly {
			wake(ch)
		}
	}
}

// AllChanged wakes everyone: something changed and nobody knows what.
func (w *Watches) AllChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, chans := range w.byID {
		for ch := range chans {
			wake(ch)
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
