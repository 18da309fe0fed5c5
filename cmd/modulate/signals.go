package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals turns Ctrl-C, SIGTERM and SIGHUP into the end of contexts: the first
// asks everything to stop in good order, the second to stop at once, and the
// third is the system's.
type signals struct {
	hard context.Context // ends with the second
	stop func()
}

// catchSignals returns a context that ends with the first signal, with
// errInterrupted as its cause.
func catchSignals(ctx context.Context) (context.Context, *signals) {
	soft, cancel := context.WithCancelCause(ctx)
	hard, cancelHard := context.WithCancelCause(ctx)
	got := make(chan os.Signal, 2)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A reader that went away is an error of the write. Ignored, the signal
	// would be so in scripts, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for _, end := range []context.CancelCauseFunc{cancel, cancelHard} {
			select {
			case <-got:
				end(errInterrupted)
			case <-done:
				return
			}
		}
		signal.Stop(got)
	}()
	var once sync.Once
	return soft, &signals{hard: hard, stop: func() {
		once.Do(func() {
			signal.Stop(got)
			close(done)
			cancel(nil)
			cancelHard(nil)
		})
	}}
}
