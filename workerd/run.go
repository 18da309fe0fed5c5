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

	"modulate/internal/account"
	"modulate/workerd/device"
	"modulate/workerd/host"
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
		Example: "  workerd --dir .modulate --machine gpu --slots 1\n  workerd --stage prod --machine gpu --url https://abc.execute-api.us-east-1.amazonaws.com",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: %q is not expected: workerd takes flags, and the command doctor", errInput, args[0])
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
		if err := cfg.settle(cmd.Flags(), getenv); err != nil {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		d := daemon{Config: cfg, getenv: getenv, stdout: stdout, log: newLog(stderr, cfg)}
		if cfg.Gateway != "" {
			return d.serveGateway(cmd.Context())
		}
		return d.serve(cmd.Context())
	}
	cmd.AddCommand(doctorCommand())
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return ends(cmd.ExecuteContext(ctx), stderr)
}

// ends says what err is, and returns the exit code.
func ends(err error, stderr io.Writer) int {
	var trouble *account.Trouble
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInput):
		fmt.Fprintf(stderr, "workerd: error: %v\nworkerd: hint: workerd --help lists the flags\n", err)
		return exitInput
	case errors.As(err, &trouble):
		fmt.Fprintf(stderr, "workerd: error: %v\nworkerd: hint: %s\n", err, trouble.Hint)
	default:
		fmt.Fprintf(stderr, "workerd: error: %v\n", err)
	}
	return exitFailed
}

// A daemon is one run of workerd.
type daemon struct {
	Config
	getenv func(string) string
	stdout io.Writer
	log    *slog.Logger
}

// serve works until ctx ends or a signal comes.
func (d daemon) serve(ctx context.Context) (err error) {
	machine, err := host.Read(d.File)
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	devices, err := machine.Devices(ctx, d.log)
	if err != nil {
		return err
	}
	if n := devices.Slots(); n > 0 && !d.slotsGiven {
		d.Slots = n
	}
	s, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	spool, err := s.spool(d.Name, d.Machine)
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	h, err := host.Open(machine, host.Options{Slots: d.Slots, Devices: devices, Log: d.log})
	if errors.Is(err, device.ErrFew) {
		return fmt.Errorf("%w: --slots %d: this machine has %d GPUs, each for one script at a time: "+
			`take fewer slots, or lend all GPUs to every script by gpus.lend = "shared" in machine.toml`, errInput, d.Slots, devices.Slots())
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	run, end, err := h.Runner(host.Worker{Machine: d.Machine, Spool: spool.Dir, Slots: d.Slots})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	w, err := worker.New(worker.Config{
		Engine: s.engine, Roster: s.roster, Audience: s.heard, LogGap: s.logGap, Machine: d.Machine, Slots: d.Slots, Name: d.Name,
		Runner: run, Runtimes: h.Runtimes, Environments: h.Environments, Devices: h.GPUs, API: s.api,
		Spool: spool.Dir, Lease: s.lease, AnnounceGap: s.announceGap, Drain: d.Drain, Log: d.log,
	})
	if err != nil {
		return err
	}
	return d.work(ctx, w, s, h)
}

// open opens what is to be worked for.
func (d daemon) open(ctx context.Context) (*site, error) {
	if d.Stage != "" {
		return d.openStage(ctx)
	}
	return openDir(ctx, d.Config, d.log)
}

// work runs the worker, and what belongs beside it.
func (d daemon) work(ctx context.Context, w *worker.Worker, s *site, h *host.Host) error {
	ctx, stop := drainOnSignal(ctx, w, d.log)
	defer stop()
	defer handOverOnSignal(w, d.log)()
	beside, end := context.WithCancel(context.WithoutCancel(ctx)) // its health matters while it drains
	defer end()
	told := ""
	if d.Health != "" {
		at, wait, err := serveHealth(beside, d.Health, health{worker: w.Report, host: s.host})
		if err != nil {
			return err
		}
		defer wait()
		defer end()
		told = ", health at " + at
	}
	fmt.Fprintf(d.stdout, "working for %s as %s, %d slots, %s, %s%s\n", d.Machine, d.Name, d.Slots, s.name, h.Contains(), told)
	var tasks sync.WaitGroup
	for _, run := range s.beside {
		tasks.Go(func() { run(ctx) })
	}
	heard := d.hear(beside, w)
	heard.watching.Go(func() { h.GPUs.Run(beside) })
	defer func() { end(); heard.watching.Wait() }()
	err := w.Run(ctx)
	heard.stay(ctx)
	stop()
	tasks.Wait()
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

// handOverOnSignal has w leave its scripts to the next worker on SIGHUP, until
// it is undone.
func handOverOnSignal(w *worker.Worker, log *slog.Logger) (undo func()) {
	got, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(got, syscall.SIGHUP)
	go func() {
		select {
		case <-got:
			log.Warn("handing over: the scripts go on, for the next worker of this spool")
			w.HandOver()
		case <-done:
		}
	}()
	return func() {
		signal.Stop(got)
		close(done)
	}
}

// newLog writes lines of text or JSON; warnings and errors only unless verbose.
func newLog(w io.Writer, cfg Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelWarn}
	if cfg.Verbose {
		options.Level = slog.LevelInfo
	}
	if cfg.Log == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// version is that of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
