package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// A logging is what the flags of logs say.
type logging struct {
	*app
	follow  bool
	stream  string
	tail    int
	stamps  bool
	attempt uint32
}

func (a *app) logsCommand() *cobra.Command {
	l := &logging{app: a}
	cmd := &cobra.Command{
		Use: "logs ID [flags]", Short: "Show a script's output, while it runs too", Args: oneID,
		ValidArgsFunction: a.completeIDs,
		Long: `Show what a script wrote: its stdout on stdout, its stderr on stderr; with
--stream only that one, on stdout. It is the output of the latest attempt, or of
the one named; -f goes on with what is written, through further attempts, until
the promise has ended, and says on stderr why another attempt begins.

--timestamps puts before each line when it reached this command, so with -f when
it was written; what was there before has the time of the command's start.`,
		Example: "  modulate logs ID -f --tail 20\n  modulate logs ID --stream stderr --attempt 1",
		RunE:    func(cmd *cobra.Command, ids []string) error { return l.run(cmd.Context(), ids[0]) },
	}
	f := cmd.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "go on with what is written until the end")
	f.StringVar(&l.stream, "stream", "", "only `STREAM` stdout or stderr")
	f.IntVar(&l.tail, "tail", -1, "begin with the last `N` lines of each stream")
	f.BoolVar(&l.stamps, "timestamps", false, "put the time before each line")
	f.Uint32Var(&l.attempt, "attempt", 0, "only the attempt with that `NUMBER`, from 1")
	completeFlags(cmd)
	return cmd
}

// run shows the output of id.
func (l *logging) run(ctx context.Context, id string) error {
	if l.stream != "" && l.stream != "stdout" && l.stream != "stderr" {
		return badInput("--stream %q: want stdout or stderr", l.stream)
	}
	svc, err := l.lookFor(ctx, id)
	if err != nil {
		return err
	}
	defer svc.close()
	return l.show(ctx, svc, id)
}

// show shows the output of id as svc has it.
func (l *logging) show(ctx context.Context, svc *service, id string) error {
	p, err := svc.client.Get(ctx, id, 0)
	if err != nil {
		return err
	}
	if last := lastAttempt(p); l.attempt > last {
		return badInput("--attempt %d: %s has had %d attempts", l.attempt, id, last)
	}
	streams := l.streams(svc.client, p)
	for _, s := range streams {
		if err := l.stored(ctx, s); err != nil {
			return logFailure(err)
		}
	}
	if l.follow && !terminal(p) {
		if err := l.goOn(ctx, svc, streams); err != nil {
			return logFailure(err)
		}
	}
	for _, s := range streams {
		if c, ok := s.dst.(io.Closer); ok {
			if err := c.Close(); err != nil {
				return outputFailure(err)
			}
		}
	}
	return nil
}

func logFailure(err error) error {
	if errors.Is(err, errOutput) {
		return outputFailure(err)
	}
	return err
}

// streams returns the streams to show, at their attempt.
func (l *logging) streams(client *api.Client, p api.Promise) (all []*stream) {
	attempt := max(l.attempt, 1)
	turns := &turns{client: client, id: p.ID, say: l.line}
	if l.attempt == 0 {
		attempt = max(lastAttempt(p), 1)
	}
	for _, name := range []string{"stdout", "stderr"} {
		dst := l.stdout
		switch {
		case l.stream == "" && name == "stderr":
			dst = l.stderr
		case l.stream != "" && l.stream != name:
			continue
		}
		dst = l.output(dst, l.raw)
		if l.stamps {
			dst = &stamper{dst: dst, now: time.Now}
		}
		all = append(all, &stream{client: client, id: p.ID, name: name, say: l.line, turn: turns.after, attempt: attempt, dst: dst})
	}
	return all
}

// stored shows what is there already of the stream's attempt: all of it, or
// its last lines.
func (l *logging) stored(ctx context.Context, s *stream) error {
	dst := s.dst
	var last *tail
	if l.tail >= 0 {
		last = &tail{lines: l.tail}
		s.dst = last
	}
	for more := true; more; {
		before := s.offset
		end, err := s.read(ctx, 0)
		if absent(err) {
			break // the attempt has not begun, or its output is not kept any more
		}
		if err != nil {
			return err
		}
		more = !end && s.offset > before
	}
	s.dst = dst
	if last == nil {
		return nil
	}
	_, err := s.write(last.text)
	return err
}

// goOn shows what is written from now on, until the promise or the only
// attempt has ended.
func (l *logging) goOn(ctx context.Context, svc *service, streams []*stream) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	live, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, s := range streams {
		s.only = l.attempt > 0
		running.Go(func() {
			if err := s.live(live); err != nil {
				fail(err)
			}
		})
	}
	if l.attempt > 0 {
		running.Wait()
		stop()
		return context.Cause(ctx)
	}
	p, err := svc.client.WaitTerminal(ctx, streams[0].id, nil)
	stop()
	running.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, s := range streams {
		if err == nil {
			err = s.rest(ctx, p)
		}
	}
	return err
}

// turns says, once for all streams, why an attempt ended that another follows.
type turns struct {
	client *api.Client
	id     string
	say    func(text string)

	mu   sync.Mutex
	said uint32
}

// after is told that the attempt of that number has ended.
func (t *turns) after(ctx context.Context, number uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number <= t.said {
		return
	}
	p, err := t.client.Get(ctx, t.id, 0)
	if err != nil || terminal(p) && number >= lastAttempt(p) {
		return // the end of the command says it
	}
	t.said = number
	for _, a := range p.Attempts {
		if a.Number == number {
			t.say(fmt.Sprintf("attempt %d %s; going on with attempt %d", number, attemptEnd(a), number+1))
		}
	}
}

// attemptEnd says how an attempt ended that is not the last.
func attemptEnd(a api.Attempt) string {
	switch cause := promise.Cause(a.Cause); cause {
	case promise.CauseLost:
		return "was lost: its worker " + a.Worker + " was not heard of any more"
	case promise.CauseFrozen:
		return "was lost: its worker " + a.Worker + " stood still past its lease"
	case promise.CauseDrained:
		return "was given back: its worker " + a.Worker + " stops"
	case promise.CauseSpot:
		return "was given back: the instance of its worker " + a.Worker + " is reclaimed"
	case promise.CauseBadHost:
		return "could not be run by its worker " + a.Worker
	default:
		return "ended: " + strings.ReplaceAll(a.Cause, "_", " ")
	}
}

// A tail keeps the last lines of what is written to it.
type tail struct {
	lines int
	text  []byte
}

// Write keeps p's last lines.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	at := len(t.text)
	for range t.lines {
		if at == 0 {
			return len(p), nil
		}
		at = bytes.LastIndexByte(t.text[:at-1], '\n') + 1
	}
	t.text = append(t.text[:0], t.text[at:]...)
	return len(p), nil
}

// A stamper puts the time before each line.
type stamper struct {
	dst     io.Writer
	now     func() time.Time
	midline bool
}

// Write writes p with the time at which it came.
func (s *stamper) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var text []byte
	for line := range bytes.Lines(p) {
		if !s.midline {
			text = s.now().UTC().AppendFormat(text, "2006-01-02T15:04:05.000Z ")
		}
		text = append(text, line...)
		s.midline = line[len(line)-1] != '\n'
	}
	if _, err := s.dst.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close closes what is below, where it can be.
func (s *stamper) Close() error {
	if c, ok := s.dst.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
