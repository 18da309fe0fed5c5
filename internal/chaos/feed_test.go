//go:build linux

package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A feed is a growing list that can be waited on.
type feed[T any] struct {
	mu    sync.Mutex
	items []T
	grown chan struct{} // closed at the next add
}

func newFeed[T any]() *feed[T] { return &feed[T]{grown: make(chan struct{})} }

// add appends item and wakes everyone who waits.
func (f *feed[T]) add(item T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.items = append(f.items, item)
	close(f.grown)
	f.grown = make(chan struct{})
}

// all returns what there is so far, and a channel that is closed when there is
// more.
func (f *feed[T]) all() ([]T, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.items), f.grown
}

// await returns the first item, old or new, for which ok holds.
func (f *feed[T]) await(ctx context.Context, ok func(T) bool) (item T, err error) {
	for seen := 0; ; {
		items, grown := f.all()
		for _, it := range items[seen:] {
			if ok(it) {
				return it, nil
			}
		}
		seen = len(items)
		select {
		case <-grown:
		case <-ctx.Done():
			return item, fmt.Errorf("after %d items: %w", seen, context.Cause(ctx))
		}
	}
}

// awaitCount returns once there are n items for which ok holds.
func (f *feed[T]) awaitCount(ctx context.Context, n int, ok func(T) bool) error {
	for seen, found := 0, 0; ; {
		items, grown := f.all()
		for _, it := range items[seen:] {
			if ok(it) {
				found++
			}
		}
		seen = len(items)
		if found >= n {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d: %w", found, n, context.Cause(ctx))
		}
	}
}
