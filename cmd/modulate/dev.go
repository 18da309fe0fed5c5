package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/promise"
	"modulate/internal/server"
	"modulate/workerd/device"
	"modulate/workerd/host"
	"modulate/workerd/runner"
)

// A dev is all of Modulate in one process: router and status over HTTP,
// sweeper, and a worker for each machine, on one folder.
type dev struct {
	*app
	listen   string
	machines string
	drain    duration
	machine  host.Machine
	verbose  bool
	debug    bool
}

func (a *app) devCommand() *cobra.Command {
	d := &dev{app: a, drain: duration{value: 10 * time.Second, given: true}}
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a server, its sweeper and its workers for this folder", Args: noArgs,
		Long: `Run all of Modulate in one process, on the store in .modulate (--dir). It
answers on the loopback address only. Ctrl-C lets scripts that run go on for
--drain, then kills them and gives them back; a second Ctrl-C does that at once.
Killed in any way and started again, it goes on where it was.

It is a server for programs with a Resonate SDK too: their URL is its address
(docs/resonate.md).`,
		Example: "  modulate dev --machines cpu:4,gpu:1 --listen 127.0.0.1:0",
		RunE:    func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&d.listen, "listen", "127.0.0.1:8700", "loopback `ADDRESS` to answer on; port 0 takes a free one")
	f.StringVar(&d.machines, "machines", "cpu,gpu", "`LIST` of machines to work for, with their slots: cpu:4,gpu:1")
	f.Var(&d.drain, "drain", "how long scripts may go on once it is to stop")
	f.BoolVar(&d.debug, "protocol-debug", false, "serve debug.* of the Resonate protocol: anyone may wipe the store and set the clock, and nothing runs by itself")
	f.BoolVarP(&d.verbose, "verbose", "v", false, "log what happens, not only what is wrong")
	return cmd
}

func (d *dev) run(ctx context.Context) error {
	machines, err := parseMachines(d.machines)
	if err != nil {
		return err
	}
	if err := checkLoopback(d.listen); err != nil {
		return err
	}
	if d.server != nil {
		d.server()
	}
	if d.machine, err = d.app.machine(); err != nil {
		return err
	}
	lock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	l, err := local.Open(ctx, local.Config{Dir: d.storeDir(), Log: d.log(), Serve: true, Debug: d.debug})
	if err != nil {
		return err
	}
	defer l.Close()
	if d.debug {
		d.line("DEBUG MODE: any request may wipe " + d.storeDir() + " and say what time it is; no script and no timer runs by itself")
	}
	listener, err := net.Listen("tcp", d.listen)
	if err != nil {
		return badInput("--listen %s: %w", d.listen, errors.Unwrap(err)).hint("take a free port with --listen 127.0.0.1:0")
	}
	defer listener.Close()
	if err := lock.Announce("http://" + listener.Addr().String()); err != nil {
		return err
	}
	return d.serve(ctx, l, listener, machines)
}

// lock takes the folder. Who asks whether it is taken holds it for a moment
// too, so that a refusal counts only when it lasts.
func (d *dev) lock(ctx context.Context) (*local.Lock, error) {
	for try := 0; ; try++ {
		lock, err := local.LockServer(d.storeDir())
		var held *local.Held
		switch {
		case !errors.As(err, &held):
			return lock, err
		case try < lockTries && ctx.Err() == nil:
			pause(ctx, lockPause)
		case held.URL == "":
			return nil, badInput("another dev is about to work on %s", d.storeDir())
		default:
			return nil, badInput("another dev works on %s: process %d, at %s", d.storeDir(), held.PID, held.URL).
				hint("use that one, stop it, or name another folder with --dir")
		}
	}
}

// How often and how far apart a lock is tried.
const (
	lockTries = 20
	lockPause = 20 * time.Millisecond
)

// serve works and answers until ctx ends.
func (d *dev) serve(ctx context.Context, l *local.Local, listener net.Listener, machines []server.Machine) error {
	h, err := d.open(ctx, machines)
	if err != nil {
		return err
	}
	defer h.Close()
	stopping := context.AfterFunc(ctx, func() { d.setStatus("stopping; again to kill what runs") })
	defer stopping()
	err = server.Run(ctx, server.Config{
		Local: l, Listener: listener, Machines: machines,
		Runner: func(m server.Machine, spool string) (runner.Runner, func() error, error) {
			return h.Runner(host.Worker{Machine: m.Name, Spool: spool, Slots: m.Slots})
		},
		Runtimes: h.Runtimes, Environments: h.Environments, Devices: h.GPUs,
		Debug: d.debug, Drain: d.drain.value, Hard: d.signals.hard, Log: d.log(),
		Ready: func() error { return d.ready(listener, machines, h.Contains()) },
	})
	if !errors.Is(err, errInterrupted) {
		return err
	}
	return nil
}

// open makes this computer ready for the machines. Its GPUs are divided among
// the slots of those that are not cpu: as many as GPUs, where nobody says and
// there is one such machine.
func (d *dev) open(ctx context.Context, machines []server.Machine) (*host.Host, error) {
	devices, err := d.machine.OwnDevices(ctx, d.log())
	if err != nil {
		return nil, err
	}
	slots, lent := 0, 0
	for i := range machines {
		m := &machines[i]
		others := slices.DeleteFunc(slices.Clone(machines), func(m server.Machine) bool { return m.Name == api.DefaultTarget })
		if m.Slots == 0 && len(others) == 1 {
			m.Slots = devices.Slots()
		}
		m.Slots = max(m.Slots, 1)
		if slots += m.Slots; m.Name != api.DefaultTarget {
			lent += m.Slots
		}
	}
	if lent == 0 {
		devices = host.Devices{}
	}
	h, err := host.Open(d.machine, host.Options{Slots: slots, Devices: devices, Lent: lent, Log: d.log()})
	if errors.Is(err, device.ErrFew) {
		return nil, badInput("--machines %s: this machine has %d GPUs, each for one script at a time", d.machines, devices.Slots()).
			hint(`take fewer slots, or lend all GPUs to every script by gpus.lend = "shared" in machine.toml`)
	}
	return h, err
}

// ready says that all is up, in one line on stdout, and about a gpu without a
// device.
func (d *dev) ready(listener net.Listener, machines []server.Machine, contains string) error {
	var list []string
	for _, m := range machines {
		list = append(list, fmt.Sprintf("%s:%d", m.Name, m.Slots))
		if m.Name == "gpu" && !hasGPU() {
			d.line("there is no NVIDIA device here: scripts for gpu run all the same, without one")
		}
	}
	return d.print(fmt.Sprintf("listening on http://%s, store %s, machines %s, %s\n", listener.Addr(), d.storeDir(), strings.Join(list, " "), contains))
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
// slot for each processor, every other machine 0: as many as dev finds right.
func parseMachines(list string) (machines []server.Machine, err error) {
	seen := map[string]bool{}
	for item := range strings.SplitSeq(list, ",") {
		name, number, counted := strings.Cut(strings.TrimSpace(item), ":")
		m := server.Machine{Name: name}
		if name == api.DefaultTarget {
			m.Slots = runtime.NumCPU()
		}
		if counted {
			if m.Slots, err = strconv.Atoi(number); err != nil || m.Slots < 1 || m.Slots > maxSlots {
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
		machines = append(machines, m)
	}
	return machines, nil
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
