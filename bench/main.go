// Command bench measures Modulate against its floors: what the disk, HTTP and
// the bare interpreter cost on the same machine in the same run. Each figure
// is a median over rounds, one line each, separated by tabs: name, median,
// unit, floor, reach, ok or short.
//
//	make bench              the figures of README, with the keeper's binary beside this one
//	go run ./bench boxed    those of scripts in sandboxes alone
//	go run ./bench large    with a million settled promises in the store
//	go run ./bench lambda   the router as a Lambda function, against a stub of AWS
//
// The server under test is a process of its own: this program run again, with
// the store, queue, HTTP and worker loop that `modulate dev` has, and for the
// figures called no-op a runner that returns at once.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"modulate/workerd/runner"
	"modulate/workerd/timerslack"
)

func main() {
	if code, was := runner.BeKeeper(os.Args); was {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		args = []string{"figures"}
	}
	ready := func(url string) { fmt.Fprintln(stdout, url) }
	switch {
	case args[0] == "figures" && len(args) == 1:
		return figures(ctx, stdout)
	case args[0] == "boxed" && len(args) == 1:
		return boxed(ctx, stdout)
	case args[0] == "large" && len(args) == 1:
		return large(ctx, stdout)
	case args[0] == "lambda" && len(args) == 1:
		return lambda(ctx, stdout)
	case args[0] == "echo" && len(args) == 1:
		return serveEcho(ctx, ready)
	case slices.Contains([]string{"noop", "exec", "boxed", "cold"}, args[0]) && len(args) == 3:
		timerslack.Widen(os.Args, os.Environ()) // as dev does
		return serve(ctx, args[0], args[1], args[2], ready)
	}
	return fmt.Errorf("what to measure? bench [boxed|large|lambda], not %q", args)
}

// rounds is how often each figure is taken.
const rounds = 5

// figures measures and prints all but the large store.
func figures(ctx context.Context, w io.Writer) error {
	for _, measure := range []func(context.Context, io.Writer) error{
		noopOne, noopMany, scriptOne, scriptMany, boxed, followed, idle,
	} {
		if err := measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// each calls fn for every round and collects what it returns.
func each(fn func() ([]float64, error)) ([][]float64, error) {
	var all [][]float64
	for range rounds {
		v, err := fn()
		if err != nil {
			return nil, err
		}
		for len(all) < len(v) {
			all = append(all, nil)
		}
		for i := range v {
			all[i] = append(all[i], v[i])
		}
	}
	return all, nil
}

// pass is how long a round of a rate lasts.
const pass = 3 * time.Second
