package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"modulate/workerd/runner"
)

// helloSource is what the real scripts are.
const helloSource = "print('hello')\n"

// scriptOne measures a real script's round trip against the bare interpreter
// on the same script, taking turns.
func scriptOne(ctx context.Context, w io.Writer) error {
	return withScripts(ctx, func(bare, whole func() error) error {
		const calls = 100
		v, err := each(func() ([]float64, error) {
			floor, err := oneByOne(calls, bare)
			if err != nil {
				return nil, err
			}
			took, err := oneByOne(calls, whole)
			if err != nil {
				return nil, err
			}
			return []float64{median(took), median(floor)}, nil
		})
		if err != nil {
			return fmt.Errorf("real script, one caller: %w", err)
		}
		floor := median(v[1])
		figure{name: "real script, one caller, p50", unit: "ms", value: median(v[0]), floor: "bare spawn " + number(floor), reach: floor + 1.2}.print(w)
		return nil
	})
}

// scriptMany measures how many real scripts a second run when every slot is
// taken, against the rate at which the bare interpreter spawns with as many at
// once.
func scriptMany(ctx context.Context, w io.Writer) error {
	return withScripts(ctx, func(bare, whole func() error) error {
		n := slots()
		v, err := each(func() ([]float64, error) {
			floor, err := rate(ctx, n, pass, func(int64) error { return bare() })
			if err != nil {
				return nil, err
			}
			got, err := rate(ctx, 2*n, pass, func(int64) error { return whole() })
			return []float64{got, floor}, err
		})
		if err != nil {
			return fmt.Errorf("real scripts, saturated: %w", err)
		}
		floor := median(v[1])
		figure{name: "real scripts, saturated", unit: "1/s", value: median(v[0]), floor: "bare spawn " + number(floor), reach: 0.85 * floor, atMin: true}.print(w)
		return nil
	})
}

// slots is how many scripts the server under test runs at once.
func slots() int { return runtime.NumCPU() }

// withScripts starts a server that runs real scripts and hands out the two
// things to compare: the bare interpreter and a whole life.
func withScripts(ctx context.Context, fn func(bare, whole func() error) error) error {
	python, err := runner.Python()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "hello.py")
	if err := os.WriteFile(script, []byte(helloSource), 0o600); err != nil {
		return err
	}
	srv, err := startServer(ctx, "exec", dir, slots())
	if err != nil {
		return err
	}
	defer srv.stop()
	caller := newSubmitter(srv.url, 2*slots(), helloSource)
	return fn(
		func() error { return spawn(ctx, python, script) },
		func() error { return caller.whole(ctx) },
	)
}
