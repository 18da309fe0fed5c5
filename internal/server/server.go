// Package server is all of Modulate in one process over one directory: router
// and status over HTTP, a sweeper, and a worker for each machine. `modulate
// dev` is this package with flags, and the benchmark measures it.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/workerd/device"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
	"modulate/workerd/worker"
)

// The HTTP server's limits. An answer may take as long as a wait, so writing
// has none.
const (
	headerTime   = 10 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 2 * time.Second // for the last answers to get out
)

// Config says what to run. All but Log is required.
type Config struct {
	Local    *local.Local
	Listener net.Listener // on a loopback address; closed by Run
	Machines []Machine
	Runner   NewRunner
	Runtimes map[string][]string
	Devices  *device.Pool // for machines other than cpu; nil: none
	// Environments runs scripts of the runtime uv; nil: there is no such.
	Environments *uv.Cache
	Drain        time.Duration   // how long scripts may go on once it is to stop
	Hard         context.Context // when it ends, scripts are killed at once
	Debug        bool            // the directory was opened so: nobody works and sweeps
	Ready        func() error    // called once, when everything is up
	Log          *slog.Logger    // nil: discarded
}

// NewRunner makes the runner of a machine's worker, which has that spool. end
// ends what is idle of it.
type NewRunner func(m Machine, spool string) (run runner.Runner, end func() error, err error)

// Machine is a kind of machine to work for, and how many attempts run at once.
type Machine struct {
	Name  string
	Slots int
}

// server is one Run.
type server struct {
	Config
	http    *http.Server
	sweeper *sweep.Sweeper
	fail    context.CancelCauseFunc
	answers sync.WaitGroup
	works   sync.WaitGroup
}

// Run works and answers until ctx ends, and then lets everything end in good
// order: the workers first, for who waits is to have an answer. It returns
// ctx's cause, or what made it stop.
func Run(ctx context.Context, cfg Config) error {
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	s := &server{Config: cfg, fail: fail, sweeper: sweep.New(sweep.Config{Engine: cfg.Local.Engine, Log: cfg.Log})}
	cfg.Local.Engine.Expect = s.sweeper.Expect
	s.http = &http.Server{
		Handler: api.Loopback(cfg.Local.Handler()), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		BaseContext: func(net.Listener) context.Context { return requests },
		ErrorLog:    slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	s.answers.Go(s.answer)
	if err := s.work(ctx); err != nil {
		fail(err)
	} else if err := cfg.Ready(); err != nil {
		fail(err)
	}
	<-ctx.Done()
	s.works.Wait()
	endRequests()
	s.shutDown()
	s.answers.Wait()
	return context.Cause(ctx)
}

func (s *server) answer() {
	if err := s.http.Serve(s.Listener); !errors.Is(err, http.ErrServerClosed) {
		s.fail(fmt.Errorf("answering at %s: %w", s.Listener.Addr(), err))
	}
}

// work starts a worker for each machine, the sweeper, and the upkeep of the
// directory.
func (s *server) work(ctx context.Context) error {
	if s.Debug {
		return nil // nothing happens by itself
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	for _, m := range s.Machines {
		name := fmt.Sprintf("%s-dev-%d-%s", host, os.Getpid(), m.Name)
		spool, err := s.Local.Spool(name, m.Name)
		if err != nil {
			return err
		}
		run, end, err := s.Runner(m, spool.Dir)
		if err != nil {
			return errors.Join(err, spool.Close())
		}
		cfg := worker.Config{
			Engine: s.Local.Engine, Roster: s.Local.Store, Audience: s.Local.Store, Machine: m.Name, Slots: m.Slots, Name: name,
			Runner: run, Runtimes: s.Runtimes, Environments: s.Environments, API: s.Local.Handler(),
			Spool: spool.Dir, Drain: s.Drain, Log: s.Log,
		}
		if m.Name != api.DefaultTarget {
			cfg.Devices = s.Devices
		}
		w, err := worker.New(cfg)
		if err != nil {
			return errors.Join(err, end(), spool.Close())
		}
		stop := context.AfterFunc(s.Hard, w.Abort)
		s.works.Go(func() {
			defer stop()
			if err := errors.Join(w.Run(ctx), end(), spool.Close()); err != nil {
				s.fail(fmt.Errorf("working for %s: %w", m.Name, err))
			}
		})
	}
	s.works.Go(func() { s.sweeper.Run(ctx) }) // it ends with ctx and by nothing else
	s.works.Go(func() { s.Local.Maintain(ctx) })
	s.works.Go(func() { s.Devices.Run(ctx) })
	return nil
}

// shutDown lets the last answers out.
func (s *server) shutDown() {
	ctx, cancel := context.WithTimeout(s.Hard, shutdownTime)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close() // what has no answer by now asks again
	}
}
