package read

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"modulate/internal/api"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// machines shows every machine that has a queue or ever had a worker, how much
// waits for it and who works.
func (rd *reader) machines(r *api.Request) (api.Answer, error) {
	names, err := rd.Engine.Queue.Machines(r.Context())
	if err != nil {
		return api.Answer{}, fmt.Errorf("looking for queues: %w", err)
	}
	var present []store.Presence
	if rd.roster != nil {
		seen, err := rd.roster.Machines(r.Context())
		if err != nil {
			return api.Answer{}, fmt.Errorf("looking for machines: %w", err)
		}
		names = append(slices.Clone(names), seen...)
		if present, err = rd.roster.Present(r.Context(), rd.Engine.Time().Add(-store.PresenceTTL)); err != nil {
			return api.Answer{}, fmt.Errorf("looking for workers: %w", err)
		}
	}
	slices.Sort(names)
	list := api.Machines{Items: []api.Machine{}}
	for _, name := range slices.Compact(names) {
		m, err := rd.machine(r, name, present)
		if err != nil {
			return api.Answer{}, err
		}
		list.Items = append(list.Items, m)
	}
	return api.Answer{Body: list}, nil
}

func (rd *reader) machine(r *api.Request, name string, present []store.Presence) (api.Machine, error) {
	m := api.Machine{Name: name, Workers: []api.Worker{}}
	depth, err := rd.depth(r, name)
	if err != nil {
		return m, err
	}
	m.Depth = depth
	for _, p := range present {
		if p.Machine != name {
			continue
		}
		m.Workers = append(m.Workers, api.Worker{
			Name: p.Worker, Slots: p.Slots, Running: p.Running,
			Started: p.Started.Std(), Seen: p.Seen.Std(),
		})
		m.Slots += p.Slots
		m.Running += p.Running
	}
	slices.SortFunc(m.Workers, func(a, b api.Worker) int { return cmp.Compare(a.Name, b.Name) })
	return m, nil
}

// depth returns about how many messages wait for a machine; a queue that is
// gone has none.
func (rd *reader) depth(r *api.Request, name string) (int, error) {
	d, err := rd.Engine.Queue.Depth(r.Context(), name)
	if errors.Is(err, queue.ErrNoQueue) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking at the queue of %s: %w", name, err)
	}
	return d.Visible + d.Delayed, nil
}
