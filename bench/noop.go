package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

// noopSource is a script that the no-op runner never looks at.
const noopSource = "pass\n"

// noopOne measures the round trip of one caller: three steps, each durably
// committed, over HTTP. Its floor is three synced appends.
func noopOne(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "noop", dir, 64)
	if err != nil {
		return err
	}
	defer srv.stop()
	caller := newSubmitter(srv.url, 1, noopSource)
	const calls = 1000
	v, err := each(func() ([]float64, error) {
		floor, err := commits(dir, calls)
		if err != nil {
			return nil, err
		}
		took, err := oneByOne(calls, func() error { return caller.whole(ctx) })
		if err != nil {
			return nil, err
		}
		return []float64{median(took), percentile(took, 99), median(floor), percentile(floor, 99)}, nil
	})
	if err != nil {
		return fmt.Errorf("no-op, one caller: %w", err)
	}
	floor := "three synced appends "
	figure{name: "no-op round trip, one caller, p50", unit: "ms", value: median(v[0]), floor: floor + number(median(v[2])), reach: 1.2}.print(w)
	figure{name: "no-op round trip, one caller, p99", unit: "ms", value: median(v[1]), floor: floor + number(median(v[3])), reach: 3}.print(w)
	return nil
}

// noopMany measures 64 waiting callers, and the server's memory meanwhile. Its
// floor is an HTTP server that does nothing.
func noopMany(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "noop", dir, 64)
	if err != nil {
		return err
	}
	defer srv.stop()
	const callers = 64
	caller := newSubmitter(srv.url, callers, noopSource)
	v, err := each(func() ([]float64, error) {
		floor, err := echo(ctx, callers, pass)
		if err != nil {
			return nil, err
		}
		got, err := rate(ctx, callers, pass, func(int64) error { return caller.whole(ctx) })
		return []float64{got, floor}, err
	})
	if err != nil {
		return fmt.Errorf("no-op, %d callers: %w", callers, err)
	}
	figure{name: "no-op, 64 waiting callers", unit: "1/s", value: median(v[0]), floor: "empty HTTP server " + number(median(v[1])), reach: 7000, atMin: true}.print(w)
	peak, err := srv.peakMiB()
	if err != nil {
		return err
	}
	figure{name: "memory of the server under that load, peak", unit: "MiB", value: peak, floor: "-", reach: 40}.print(w)
	return nil
}

// oneByOne calls fn n times and returns how long each call took, in
// milliseconds. A tenth as many calls go before, uncounted.
func oneByOne(n int, fn func() error) ([]float64, error) {
	var took []float64
	for i := range n + n/10 {
		ms, err := timed(fn)
		if err != nil {
			return nil, err
		}
		if i >= n/10 {
			took = append(took, ms)
		}
	}
	return took, nil
}
