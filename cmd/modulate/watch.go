package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"modulate/internal/api"
)

// liveAfter is how long a script may take before its output is followed: a
// shorter one costs no request but the one that submits it.
const liveAfter = 300 * time.Millisecond

// A watch waits for the end of one promise, with its script's output on ours.
type watch struct {
	*app
	svc     *service
	id      string
	streams []*stream
	clean   []io.Closer // before the end: what holds output back
	files   []io.Closer
}

// A request asks for a promise, perhaps waiting for its end.
type request func(context.Context) (api.Promise, error)

// watch prepares to wait for id. With --json stdout is left to the promise.
func (a *app) watch(svc *service, id, saveDir string) (*watch, error) {
	w := &watch{app: a, svc: svc, id: id}
	for name, dst := range map[string]io.Writer{"stdout": a.stdout, "stderr": a.stderr} {
		s := &stream{client: svc.client, id: id, name: name, say: a.line, attempt: 1, dst: a.output(dst, a.raw)}
		if a.json && name == "stdout" {
			s.dst = io.Discard
		}
		if c, ok := s.dst.(*sanitizer); ok {
			w.clean = append(w.clean, c)
		}
		if saveDir != "" {
			f, err := save(saveDir, id, name)
			if err != nil {
				return nil, errors.Join(err, w.close())
			}
			s.dst, s.begin = io.MultiWriter(s.dst, f), f.begin
			w.files = append(w.files, f)
		}
		if s.dst != io.Discard {
			w.streams = append(w.streams, s)
		}
	}
	return w, nil
}

// close closes the files of --save.
func (w *watch) close() error {
	var all error
	for _, f := range w.files {
		all = errors.Join(all, f.Close())
	}
	w.files = nil
	return all
}

// follow returns the promise once it is terminal and all its output is out.
// first is the request to begin with; it may wait.
func (w *watch) follow(ctx context.Context, first request) (api.Promise, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	live, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { w.live(live, fail) })
	if w.terminal {
		running.Go(func() { w.progress(live) })
	}
	p, err := first(ctx)
	if err == nil && !terminal(p) {
		p, err = w.svc.client.WaitTerminal(ctx, w.id, nil)
	}
	stop()
	running.Wait()
	w.setStatus("")
	if err == nil {
		err = w.rest(ctx, p)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, errOutput) {
		w.svc.abandon()
		err = outputFailure(err)
	}
	return p, errors.Join(err, w.close())
}

// live follows the output until ctx ends.
func (w *watch) live(ctx context.Context, fail context.CancelCauseFunc) {
	pause(ctx, liveAfter)
	var running sync.WaitGroup
	for _, s := range w.streams {
		running.Go(func() {
			if err := s.live(ctx); errors.Is(err, errOutput) {
				fail(err) // any other is met by who waits for the end
			}
		})
	}
	running.Wait()
}

// rest brings out what is left, and the end of what a sanitizer held back.
func (w *watch) rest(ctx context.Context, p api.Promise) error {
	for _, s := range w.streams {
		if err := s.rest(ctx, p); errors.Is(err, errOutput) {
			return err
		} else if err != nil {
			return fmt.Errorf("reading the %s of %s: %w", s.name, p.ID, err)
		}
	}
	for _, c := range w.clean {
		if err := c.Close(); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
	}
	return nil
}

// terminal reports whether p can change no more.
func terminal(p api.Promise) bool { return p.State != "" && p.State != "pending" }
