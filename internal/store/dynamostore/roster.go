package dynamostore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// presenceKept is how long a worker that says no more is kept: longer than it
// counts as present, so that an operator can still find it.
const presenceKept = time.Hour

// Announce is that of [store.Roster].
func (s *Store) Announce(ctx context.Context, p store.Presence) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.remember(ctx, "#announced", p.Machine); err != nil {
		return err
	}
	it := key("#worker", p.Worker)
	it["machine"] = str(p.Machine)
	it["slots"] = number(int64(p.Slots))
	it["running"] = number(int64(p.Running))
	it["started"] = number(int64(p.Started))
	it["seen"] = number(int64(p.Seen))
	it["x"] = seconds(p.Seen.Add(presenceKept))
	return s.put(ctx, it)
}

// Retire is that of [store.Roster].
func (s *Store) Retire(ctx context.Context, worker string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, err := s.db.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &s.Table, Key: key("#worker", worker)})
	if err != nil {
		return s.ours(ctx, "retiring "+worker, err)
	}
	return nil
}

// Present is that of [store.Roster].
func (s *Store) Present(ctx context.Context, since promise.Time) ([]store.Presence, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	found, err := s.read(ctx, everything("#worker"), unlimited)
	if err != nil {
		return nil, err
	}
	var present []store.Presence
	for _, it := range found {
		p := store.Presence{
			Worker: text(it["i"]), Machine: text(it["machine"]),
			Slots: int(integer(it["slots"])), Running: int(integer(it["running"])),
			Started: promise.Time(integer(it["started"])), Seen: promise.Time(integer(it["seen"])),
		}
		if p.Seen >= since {
			present = append(present, p)
		}
	}
	slices.SortFunc(present, func(a, b store.Presence) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Worker, b.Worker))
	})
	return present, nil
}

// Machines is that of [store.Roster].
func (s *Store) Machines(ctx context.Context) ([]string, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return s.remembered(ctx, "#announced")
}

// remember puts a name into a set that only grows, once in a process.
func (s *Store) remember(ctx context.Context, set, name string) error {
	known := [2]string{set, name}
	if _, ok := s.known.Load(known); ok {
		return nil
	}
	if err := s.put(ctx, key(set, name)); err != nil {
		return err
	}
	s.known.Store(known, true)
	return nil
}

// remembered returns the names in a set, sorted.
func (s *Store) remembered(ctx context.Context, set string) (names []string, err error) {
	found, err := s.read(ctx, everything(set), unlimited)
	for _, it := range found {
		names = append(names, text(it["i"]))
	}
	return names, err
}

// everything is the whole of a partition.
func everything(partition string) span { return span{partition: partition, low: " ", high: last} }

const unlimited = 1 << 30

// put writes an item over whatever there is.
func (s *Store) put(ctx context.Context, it item) error {
	if _, err := s.db.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.Table, Item: it}); err != nil {
		return s.ours(ctx, "writing "+text(it["p"])+" "+text(it["i"]), err)
	}
	return nil
}
