// Package local opens a directory as a whole deployment of Modulate: what
// `modulate dev`, `workerd --dir` and the CLI without a server stand on. Any
// number of processes may have one directory open.
//
//	store.db    promises, queue, roster and small blobs (package sqlite)
//	blobs/      scripts, inputs, outputs that are larger (package fileblob)
//	spool/      outcomes that workers could not settle yet (package spool)
//	dev.lock    held by the dev that serves the directory; says where
//	held        which tasks the workers of other programs hold (package delivery)
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"modulate/functions/router/dispatch"
	"modulate/functions/router/protocol"
	"modulate/functions/status/read"
	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/blob/fileblob"
	"modulate/internal/blob/sqliteblob"
	"modulate/internal/delivery"
	"modulate/internal/engine"
	"modulate/internal/queue"
	"modulate/internal/queue/sqlitequeue"
	"modulate/internal/spool"
	"modulate/internal/sqlite"
	"modulate/internal/store/sqlitestore"
)

// Retention is how long a settled promise is kept. Blobs are kept for twice
// the longest life of a promise and the retention after it, so that they
// outlive whatever names them.
const (
	Retention     = 30 * 24 * time.Hour
	blobRetention = 2 * (api.MaxDeadline + Retention)
	blobCache     = 1 << 20 // bytes of scripts and inputs that a process remembers
)

// Config says what to open.
type Config struct {
	Dir string       // made if it is not there
	Log *slog.Logger // nil: discarded

	// Serve is set by who serves the directory: workers of other programs
	// connect to it.
	Serve bool
	// Debug has the protocol's door serve debug.*; nothing happens by itself then.
	Debug bool
}

// Local is an open directory. Its fields are not changed; its methods may be
// called from any goroutine.
type Local struct {
	Store  *sqlitestore.Store
	Queue  queue.Queue
	Blobs  blob.Blobs
	Engine *engine.Engine

	dir     string
	log     *slog.Logger
	db      *sqlite.DB
	handler http.Handler
	hub     *delivery.Hub // nil unless it is served
}

// Open opens the directory.
func Open(ctx context.Context, cfg Config) (*Local, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store's directory: %w", err)
	}
	files, err := fileblob.Open(filepath.Join(cfg.Dir, "blobs"))
	if err != nil {
		return nil, err
	}
	db, err := sqlite.Open(ctx, filepath.Join(cfg.Dir, "store.db"))
	if err != nil {
		return nil, err
	}
	blobs := blob.NewCache(blob.BySize{Small: sqliteblob.New(db), Large: files}, blobCache)
	l := &Local{
		Store: sqlitestore.New(db), Queue: sqlitequeue.New(db), Blobs: blobs,
		dir: cfg.Dir, log: cfg.Log, db: db,
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.Engine = &engine.Engine{Store: l.Store, Queue: l.Queue, Blobs: blobs, Log: l.log}
	door := protocol.Config{Engine: l.Engine, Search: l.Store, Log: l.log}
	if cfg.Debug {
		door.Debug = &protocol.Debug{Wipe: l.Store.Wipe}
	}
	if cfg.Serve {
		if l.hub, err = delivery.New(delivery.Config{Engine: l.Engine, Held: filepath.Join(cfg.Dir, "held"), Log: l.log}); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		l.Engine.Notify, door.Delivery = l.hub.Notify, l.hub
	}
	l.handler = l.join(protocol.New(door), api.Join(
		dispatch.New(dispatch.Config{Engine: l.Engine, Roster: l.Store, Log: l.log}),
		read.New(read.Config{Engine: l.Engine, Roster: l.Store, Audience: l.Store, Log: l.log}),
	))
	return l, nil
}

// join serves the protocol's door beside the API.
func (l *Local) join(door, rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	if l.hub != nil {
		mux.Handle("GET /poll/{group}/{pid}", l.hub)
	}
	mux.Handle("/", protocol.Join(door, rest))
	return mux
}

// Handler serves the HTTP API: router and status in one.
func (l *Local) Handler() http.Handler { return l.handler }

// Spool takes the spool of the worker with that name, of a machine ("": none).
func (l *Local) Spool(worker, machine string) (*spool.Spool, error) {
	return spool.Open(filepath.Join(l.dir, "spool"), worker, machine)
}

// Close ends what Open has begun. What was handed to the queue is written
// first.
func (l *Local) Close() error {
	var err error
	if l.hub != nil {
		err = l.hub.Close()
	}
	return errors.Join(err, l.db.Close())
}

// Maintain removes, once a day until ctx ends, what is older than its
// retention. Doing so twice at once is harmless.
func (l *Local) Maintain(ctx context.Context) {
	const every = 24 * time.Hour
	timer := time.NewTimer(time.Minute) // not while everything starts
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := l.collect(ctx); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "what is past its retention was not all removed", "error", err)
		}
		timer.Reset(every)
	}
}

func (l *Local) collect(ctx context.Context) error {
	now := l.Engine.Time()
	_, err := l.Store.Collect(ctx, now.Add(-Retention))
	_, err2 := l.Blobs.Collect(ctx, now.Add(-blobRetention))
	return errors.Join(err, err2)
}
