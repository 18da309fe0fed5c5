package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/local"
	"modulate/internal/spool"
	"modulate/internal/store"
)

// A site is what a worker works for: a directory of this machine, or a stage
// of an AWS account.
type site struct {
	name   string // for people
	engine *engine.Engine
	roster store.Roster
	heard  store.Audience // who follows whose output
	api    http.Handler   // for scripts that submit; nil: they cannot

	lease       time.Duration // of calls that name none
	logGap      time.Duration // for which output that nobody follows is held back; 0: what a worker does by itself
	announceGap time.Duration // between announcements to the roster; 0: what a worker does by itself

	spool  func(worker, machine string) (*spool.Spool, error) // for outcomes that wait
	host   func() hostReport                                  // what it knows of this machine
	beside []func(context.Context)                            // what runs beside the worker, until its context ends
	close  func() error
}

// openDir opens a directory. A sweeper runs beside the worker, unless it is
// told not to.
func openDir(ctx context.Context, cfg Config, log *slog.Logger) (*site, error) {
	l, err := local.Open(ctx, local.Config{Dir: cfg.Dir, Log: log})
	if err != nil {
		return nil, err
	}
	s := &site{
		name: "store " + cfg.Dir, engine: l.Engine, roster: l.Store, heard: l.Store, api: l.Handler(), lease: api.DefaultLease, spool: l.Spool,
		host: func() hostReport { return hostReport{} }, beside: []func(context.Context){l.Maintain}, close: l.Close,
	}
	if !cfg.NoSweep {
		sweeper := sweep.New(sweep.Config{Engine: l.Engine, Log: log})
		s.beside = append(s.beside, func(ctx context.Context) { sweeper.Run(ctx) }) // it ends with ctx and by nothing else
	}
	return s, nil
}
