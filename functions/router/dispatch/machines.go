package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// machines knows which machines there are: those that have a queue or ever had
// a worker. A machine once known is not looked up again.
type machines struct {
	queue  queue.Queue
	roster store.Roster // or nil
	mu     sync.RWMutex
	seen   map[string]bool
}

// check refuses a machine that is not known, and lists those that are.
func (m *machines) check(ctx context.Context, name string) error {
	if name == "" {
		return api.Invalid("machine", "no machine is named: name the kind of machine to run on, such as %q", api.DefaultTarget)
	}
	if !promise.ValidMachine(name) {
		return api.Invalid("machine", "machine %q: want a lower-case letter, then up to 39 of a-z, 0-9 and -", name)
	}
	m.mu.RLock()
	seen := m.seen[name]
	m.mu.RUnlock()
	if seen {
		return nil
	}
	known, err := m.known(ctx)
	switch {
	case slices.Contains(known, name):
	case err != nil:
		return err
	default:
		return api.Invalid("machine", "machine %q is not known; known are: %s", name, strings.Join(known, ", "))
	}
	m.mu.Lock()
	m.seen[name] = true
	m.mu.Unlock()
	return nil
}

// known returns the machines there are, sorted. With an error there may be
// more: that of the queues does not hide who had a worker, nor the other way
// round.
func (m *machines) known(ctx context.Context) (names []string, err error) {
	names, err = m.queue.Machines(ctx)
	if err != nil {
		err = fmt.Errorf("looking for queues: %w", err)
	}
	if m.roster != nil {
		seen, failed := m.roster.Machines(ctx)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("looking for machines: %w", failed))
		}
		names = append(slices.Clone(names), seen...)
	}
	slices.Sort(names)
	return slices.Compact(names), err
}
