package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// commits measures what three durable steps cost at the least: three appends
// of a page, each synced, to a file beside the store. Milliseconds each.
func commits(dir string, n int) ([]float64, error) {
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	var took []float64
	for range n {
		ms, err := timed(func() error {
			for range 3 {
				if _, err := f.Write(page); err != nil {
					return err
				}
				if err := f.Sync(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
	}
	return took, nil
}

// echo measures an HTTP server that answers at once: requests a second by so
// many callers, over a process of its own like the server under test.
func echo(ctx context.Context, callers int, length time.Duration) (float64, error) {
	url, stop, err := start(ctx, "echo")
	if err != nil {
		return 0, err
	}
	defer stop()
	client := newClient(url, callers)
	return rate(ctx, callers, length, func(int64) error {
		_, err := client.post(ctx, "/", []byte("{}"))
		return err
	})
}

// serveEcho is the floor's server.
func serveEcho(ctx context.Context, ready func(url string)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })}
	context.AfterFunc(ctx, func() { srv.Close() })
	ready("http://" + l.Addr().String())
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// spawn runs the bare interpreter on the script that the server runs too.
func spawn(ctx context.Context, python, script string) error {
	return exec.CommandContext(ctx, python, "-I", "-S", script).Run()
}

// rate calls fn from so many callers for length and returns calls a second.
// fn gets the number of the call. The first error ends it.
func rate(ctx context.Context, callers int, length time.Duration, fn func(n int64) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var calls atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range callers {
		group.Go(func() {
			for ctx.Err() == nil && time.Since(start) < length {
				if err := fn(calls.Add(1)); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return float64(calls.Load()) / time.Since(start).Seconds(), context.Cause(ctx)
}
