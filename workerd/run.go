package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/local"
	"modulate/workerd/runner"
	"modulate/workerd/worker"
)

// The exit codes.
const (
	exitFailed = 1
	exitInput  = 2
)

// errInput marks what the one who starts workerd has to mend.
var errInput = errors.New("bad input")

// run is the whole program but for its process.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var cfg Config
	cmd := &cobra.Command{
		Use: "workerd", Short: "Run scripts for one machine", Version: version(),
		Example: "  workerd --dir .modulate --machine gpu --slots 1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: %q is not expected: workerd takes flags only", errInput, args[0])
			}
			return nil
		},
		SilenceErrors: true, SilenceUsage: true,
	}
	cfg.flags(cmd.Flags())
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "group" {
			name = "machine"
		}
		return pflag.NormalizedName(name)
	})
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errInput, err) })
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := environment(cmd.Flags(), getenv); err != nil {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		return serve(cmd.Context(), cfg, stdout, stderr)
	}
	cmd.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	switch err := cmd.ExecuteContext(ctx); {
	case err == nil:
		return 0
	case errors.Is(err, errInput):
		fmt.Fprintf(stderr, "workerd: error: %v\nworkerd: hint: workerd --help lists the flags\n", err)
		return exitInput
	default:
		fmt.Fprintf(stderr, "workerd: error: %v\n", err)
		return exitFailed
	}
}

// serve works until ctx ends or a signal comes.
func serve(ctx context.Context, cfg Config, stdout, stderr io.Writer) (err error) {
	if err := cfg.check(); err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	machine, err := cfg.machine()
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	log := newLog(stderr, cfg.Verbose)
	l, err := local.Open(ctx, local.Config{Dir: cfg.Dir, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	spool, err := l.Spool(cfg.Name)
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	jobs, err := runner.OpenWorkplace("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, jobs.Close()) }()
	w, err := worker.New(worker.Config{
		Engine: l.Engine, Roster: l.Store, Machine: cfg.Machine, Slots: cfg.Slots, Name: cfg.Name,
		Runner: runner.Exec{Dir: jobs.Dir, Spares: &runner.Spares{}}, Runtimes: runner.Runtimes(machine.Runtimes), API: l.Handler(),
		Spool: spool.Dir, Temp: jobs.Dir, Drain: cfg.Drain, Log: log,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "working for %s as %s, %d slots, store %s, no sandbox\n", cfg.Machine, cfg.Name, cfg.Slots, cfg.Dir)
	return work(ctx, w, l, cfg, log)
}

// work runs the worker and, unless it is told not to, a sweeper beside it.
func work(ctx context.Context, w *worker.Worker, l *local.Local, cfg Config, log *slog.Logger) error {
	ctx, stop := drainOnSignal(ctx, w, log)
	defer stop()
	var beside sync.WaitGroup
	if !cfg.NoSweep {
		sweeper := sweep.New(sweep.Config{Engine: l.Engine, Log: log})
		beside.Go(func() { sweeper.Run(ctx) }) // it ends with ctx and by nothing else
	}
	beside.Go(func() { l.Maintain(ctx) })
	err := w.Run(ctx)
	stop()
	beside.Wait()
	return err
}

// drainOnSignal returns a context that ends with the first signal; the second
// aborts w. stop ends both.
func drainOnSignal(ctx context.Context, w *worker.Worker, log *slog.Logger) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan os.Signal, 2)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for _, act := range []func(){
			func() { log.Warn("draining; a second signal kills what runs"); cancel() },
			w.Abort,
		} {
			select {
			case <-got:
				act()
			case <-done:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(got)
		close(done)
		cancel()
	})
}

// newLog writes lines of text; warnings and errors only unless verbose.
func newLog(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// version is that of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
