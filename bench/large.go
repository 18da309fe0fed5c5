package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
	"modulate/internal/store/sqlitestore"
)

// million is how many settled promises the large store holds.
const million = 1_000_000

// large measures submits and the first page of a list over an empty store and
// over one with a million settled promises, taking turns.
func large(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	empty, full := filepath.Join(dir, "empty"), filepath.Join(dir, "full")
	for _, d := range []string{empty, full} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := fill(ctx, filepath.Join(full, "store.db")); err != nil {
		return fmt.Errorf("filling the store: %w", err)
	}
	a, err := startServer(ctx, "noop", empty, 64)
	if err != nil {
		return err
	}
	defer a.stop()
	b, err := startServer(ctx, "noop", full, 64)
	if err != nil {
		return err
	}
	defer b.stop()
	return compare(ctx, w, a, b)
}

func compare(ctx context.Context, w io.Writer, empty, full *process) error {
	small, large := newSubmitter(empty.url, 1, noopSource), newSubmitter(full.url, 1, noopSource)
	const calls = 500
	v, err := each(func() ([]float64, error) {
		floor, err := oneByOne(calls, func() error { return small.whole(ctx) })
		if err != nil {
			return nil, err
		}
		took, err := oneByOne(calls, func() error { return large.whole(ctx) })
		if err != nil {
			return nil, err
		}
		page, err := oneByOne(20, func() error {
			_, err := large.get(ctx, "/v1/promises")
			return err
		})
		if err != nil {
			return nil, err
		}
		return []float64{median(took), median(floor), median(page)}, nil
	})
	if err != nil {
		return fmt.Errorf("large store: %w", err)
	}
	floor := median(v[1])
	figure{name: "no-op round trip over 1,000,000 settled, p50", unit: "ms", value: median(v[0]), floor: "empty store " + number(floor), reach: 1.2 * floor}.print(w)
	figure{name: "first page of the list of 1,000,000", unit: "ms", value: median(v[2]), floor: "-", reach: 20}.print(w)
	return nil
}

// fill writes a million promises as they are after a plain life, through the
// store itself.
func fill(ctx context.Context, path string) error {
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	s := sqlitestore.New(db)
	start := promise.TimeOf(time.Now().Add(-24 * time.Hour))
	for n := 0; n < million; {
		var writes []store.Write
		for ; len(writes) < store.MaxWrites && n < million; n++ {
			writes = append(writes, store.Write{Record: settled(n, start+promise.Time(n))})
		}
		if err := s.ReplaceAll(ctx, writes); err != nil {
			return err
		}
	}
	return nil
}

// settled is a promise after a plain life, in the form of its first write.
func settled(n int, at promise.Time) promise.Record {
	var id [8]byte
	rand.Read(id[:]) // ids that people give are in no order
	rec := promise.Record{
		ID: fmt.Sprintf("%x_%d", id, n), Owner: "local", Machine: "cpu",
		Call:       promise.Call{Name: "bench.py", Script: promise.Hash{1}, Runtime: "python", Timeout: 2 * time.Minute, Lease: 30 * time.Second},
		CallHash:   promise.Hash{2},
		DeadlineAt: at.Add(24 * time.Hour),
	}
	rec, _, _ = promise.Step(promise.Record{}, promise.Create{Record: rec}, at)
	rec, _, _ = promise.Step(rec, promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}}, at)
	rec, _, _ = promise.Step(rec, promise.Fulfil{Version: 1, ClaimID: promise.Nonce{1}, SettleID: promise.Nonce{2}, Outcome: promise.Outcome{Cause: promise.CauseOK}}, at)
	rec.Rev = 1
	return rec
}
