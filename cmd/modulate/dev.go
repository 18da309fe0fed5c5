package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/promise"
	"modulate/workerd/runner"
	"modulate/workerd/worker"
)

// A dev is all of Modulate in one process: router and status over HTTP,
// sweeper, and a worker for each machine, on one folder.
type dev struct {
	*app
	listen   string
	machines string
	drain    duration
	verbose  bool
}

// The server's own limits. An answer may take as long as a wait, so writing
// has none.
const (
	headerTime   = 10 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 2 * time.Second
)

func (a *app) devCommand() *cobra.Command {
	d := &dev{app: a, drain: duration{value: 10 * time.Second, given: true}}
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a server, its sweeper and its workers for this folder", Args: noArgs,
		Long: `Run all of Modulate in one process, on the store in .modulate (--dir). It
answers on the loopback address only. Ctrl-C lets scripts that run go on for
--drain, then kills them and gives them back; a second Ctrl-C does that at once.
Killed in any way and started again, it goes on where it was.`,
		Example: "  modulate dev --machines cpu:4,gpu:1 --listen 127.0.0.1:0",
		RunE:    func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&d.listen, "listen", "127.0.0.1:8700", "loopback `ADDRESS` to answer on; port 0 takes a free one")
	f.StringVar(&d.machines, "machines", "cpu,gpu", "`LIST` of machines to work for, with their slots: cpu:4,gpu:1")
	f.Var(&d.drain, "drain", "how long scripts may go on once it is to stop")
	f.BoolVarP(&d.verbose, "verbose", "v", false, "log what happens, not only what is wrong")
	return cmd
}

// A crew is a machine and how many attempts it runs at once.
type crew struct {
	machine string
	slots   int
}

func (d *dev) run(ctx context.Context) error {
	crews, err := parseMachines(d.machines)
	if err != nil {
		return err
	}
	if err := checkLoopback(d.listen); err != nil {
		return err
	}
	lock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	l, err := local.Open(ctx, local.Config{Dir: d.storeDir(), Log: d.log()})
	if err != nil {
		return err
	}
	defer l.Close()
	listener, err := net.Listen("tcp", d.listen)
	if err != nil {
		return badInput("--listen %s: %w", d.listen, errors.Unwrap(err)).hint("take a free port with --listen 127.0.0.1:0")
	}
	defer listener.Close()
	if err := lock.Announce("http://" + listener.Addr().String()); err != nil {
		return err
	}
	return d.serve(ctx, l, listener, crews)
}

// lock takes the folder. Who asks whether it is taken has it for a moment
// itself, and says no address.
func (d *dev) lock(ctx context.Context) (*local.Lock, error) {
	for try := 0; ; try++ {
		lock, err := local.LockServer(d.storeDir())
		var held *local.Held
		switch {
		case !errors.As(err, &held):
			return lock, err
		case held.URL != "":
			return nil, badInput("another dev works on %s: process %d, at %s", d.storeDir(), held.PID, held.URL).
				hint("use that one, stop it, or name another folder with --dir")
		case try == lockTries || ctx.Err() != nil:
			return nil, badInput("another dev is about to work on %s", d.storeDir())
		}
		pause(ctx, lockPause)
	}
}

// How often and how far apart a lock is tried whose holder says nothing.
const (
	lockTries = 50
	lockPause = 20 * time.Millisecond
)

// serve works and answers until ctx ends, and then lets everything end in good
// order: the workers first, for who waits is to have an answer.
func (d *dev) serve(ctx context.Context, l *local.Local, listener net.Listener, crews []crew) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	server := &http.Server{
		Handler: api.Loopback(l.Handler()), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		BaseContext: func(net.Listener) context.Context { return requests },
		ErrorLog:    slog.NewLogLogger(d.log().Handler(), slog.LevelWarn),
	}
	var answering, working sync.WaitGroup
	answering.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("answering at %s: %w", listener.Addr(), err))
		}
	})
	if err := d.work(ctx, l, crews, &working); err != nil {
		fail(err)
	} else if err := d.ready(listener, crews); err != nil {
		fail(err)
	}
	<-ctx.Done()
	d.setStatus("stopping; again to kill what runs")
	working.Wait()
	endRequests()
	d.shutDown(server)
	answering.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errInterrupted) {
		return err
	}
	return nil
}

// work starts a worker for each crew, and the sweeper.
func (d *dev) work(ctx context.Context, l *local.Local, crews []crew, working *sync.WaitGroup) error {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	cfg := worker.Config{
		Engine: l.Engine, Roster: l.Store, Runner: runner.Exec{}, Runtimes: runner.Runtimes(nil),
		API: l.Handler(), Drain: d.drain.value, Log: d.log(),
	}
	for _, c := range crews {
		cfg.Machine, cfg.Slots = c.machine, c.slots
		cfg.Name = fmt.Sprintf("dev-%s-%d-%s", host, os.Getpid(), c.machine)
		if err := d.start(ctx, l, cfg, working); err != nil {
			return err
		}
	}
	working.Go(func() { l.Maintain(ctx) })
	sweeper := sweep.New(sweep.Config{Engine: l.Engine, Log: d.log()})
	working.Go(func() { sweeper.Run(ctx) }) // it ends with ctx and by nothing else
	return nil
}

// start starts one worker, which has a spool of its own.
func (d *dev) start(ctx context.Context, l *local.Local, cfg worker.Config, working *sync.WaitGroup) error {
	spool, err := l.Spool(cfg.Name)
	if err != nil {
		return err
	}
	cfg.Spool = spool.Dir
	w, err := worker.New(cfg)
	if err != nil {
		return errors.Join(err, spool.Close())
	}
	stop := context.AfterFunc(d.signals.hard, w.Abort)
	working.Go(func() {
		defer stop()
		if err := errors.Join(w.Run(ctx), spool.Close()); err != nil {
			d.line("error: the worker for " + cfg.Machine + ": " + err.Error())
		}
	})
	return nil
}

// ready says that all is up, in one line on stdout, and about a gpu without a
// device.
func (d *dev) ready(listener net.Listener, crews []crew) error {
	var list []string
	for _, c := range crews {
		list = append(list, fmt.Sprintf("%s:%d", c.machine, c.slots))
		if c.machine == "gpu" && !hasGPU() {
			d.line("there is no NVIDIA device here: scripts for gpu run all the same, without one")
		}
	}
	return d.print(fmt.Sprintf("listening on http://%s, store %s, machines %s\n", listener.Addr(), d.storeDir(), strings.Join(list, " ")))
}

// shutDown lets the last answers out.
func (d *dev) shutDown(server *http.Server) {
	ctx, cancel := context.WithTimeout(d.signals.hard, shutdownTime)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close() // what has no answer by now asks again
	}
}

// log is where the parts of dev write what goes wrong.
func (d *dev) log() *slog.Logger {
	level := slog.LevelWarn
	if d.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: level}))
}

// parseMachines reads a list such as cpu:4,gpu. Without a number a cpu has a
// slot for each processor, every other machine one.
func parseMachines(list string) (crews []crew, err error) {
	seen := map[string]bool{}
	for item := range strings.SplitSeq(list, ",") {
		name, number, counted := strings.Cut(strings.TrimSpace(item), ":")
		c := crew{machine: name, slots: 1}
		if name == api.DefaultTarget {
			c.slots = runtime.NumCPU()
		}
		if counted {
			if c.slots, err = strconv.Atoi(number); err != nil || c.slots < 1 || c.slots > maxSlots {
				return nil, badInput("--machines %q: %q is no number of slots; want 1 to %d, as in cpu:2,gpu:1", list, number, maxSlots)
			}
		}
		if !promise.ValidMachine(name) {
			return nil, badInput("--machines %q: %q is no machine; want a lower-case letter, then a-z, 0-9 and -, as in cpu:2,gpu:1", list, name)
		}
		if seen[name] {
			return nil, badInput("--machines %q: %s is there twice", list, name)
		}
		seen[name] = true
		crews = append(crews, c)
	}
	return crews, nil
}

// maxSlots is the most attempts that one worker of dev runs at once.
const maxSlots = 1000

// checkLoopback refuses addresses that others can reach.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return badInput("--listen %q: want an address such as 127.0.0.1:8700", address)
	}
	ip := net.ParseIP(host)
	if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return badInput("--listen %s: dev has no accounts and runs what it is sent, so it answers on the loopback address only; want 127.0.0.1, ::1 or localhost", address)
	}
	return nil
}

// hasGPU reports whether an NVIDIA device is there.
func hasGPU() bool {
	found, err := filepath.Glob("/dev/nvidia[0-9]*")
	return err == nil && len(found) > 0
}
