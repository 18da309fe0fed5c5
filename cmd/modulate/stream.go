package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
)

// A stream brings what a promise's script writes to stdout or stderr to where
// it is wanted: the bytes of each attempt, exactly, in the order of attempts.
type stream struct {
	client *api.Client
	id     string
	name   string // stdout or stderr
	dst    io.Writer
	say    func(text string)             // told of bytes that cannot be had; may be nil
	begin  func() error                  // told before each attempt's first bytes, and of the last one that has none; may be nil
	turn   func(context.Context, uint32) // told of each attempt that has ended, before the next is read; may be nil

	attempt uint32 // being read, from 1
	offset  int64  // in it
	begun   uint32 // the attempt that begin was last told of
	only    bool   // there is to be no further attempt
}

// The waits of a stream: for more output, and before it asks again for an
// attempt that there is not yet.
const (
	moreOutput  = 10 * time.Second
	nextAttempt = 200 * time.Millisecond
)

// errOutput marks that our own output failed.
var errOutput = errors.New("writing the script's output")

// live copies output as it is written, until ctx ends. It fails where dst does,
// or where the service will not answer.
func (s *stream) live(ctx context.Context) error {
	for ctx.Err() == nil {
		end, err := s.read(ctx, moreOutput)
		switch {
		case absent(err): // not stored yet, or the attempt has not begun
			pause(ctx, nextAttempt)
		case errors.Is(err, api.ErrRoute): // the socket of a script: its promise has the end of it
			return nil
		case err != nil && (ctx.Err() == nil || errors.Is(err, errOutput)):
			return err
		case err != nil:
			return nil
		case end && s.only:
			return nil
		case end:
			s.next(ctx)
		}
	}
	return nil
}

// rest copies what is left to copy of p, which is terminal.
func (s *stream) rest(ctx context.Context, p api.Promise) error {
	last := lastAttempt(p)
	if s.whole(p, last) {
		_, err := s.write([]byte(s.of(p).Tail))
		return err
	}
	for s.attempt <= last {
		before := s.offset
		end, err := s.read(ctx, 0)
		if errors.Is(err, api.ErrRoute) {
			return s.onlyTail(p)
		}
		if absent(err) {
			return nil // it is not kept any more
		}
		if err != nil {
			return err
		}
		if end || s.offset == before {
			s.next(ctx)
		}
	}
	return s.beginAt(last)
}

// onlyTail copies what p itself has, where the rest cannot be read: at the
// socket of a script.
func (s *stream) onlyTail(p api.Promise) error {
	out := s.of(p)
	if out.Size > int64(len(out.Tail)) && s.say != nil {
		s.say(fmt.Sprintf("the last %d bytes of %s, of %s: inside a script there is no more of it", len(out.Tail), s.name, bytesText(out.Size)))
	}
	_, err := s.write([]byte(out.Tail))
	return err
}

// absent reports whether there is no such promise or attempt.
func absent(err error) bool {
	return errors.Is(err, promise.ErrNotFound) || errors.Is(err, blob.ErrNotFound)
}

// whole reports whether all that is to be copied is in p itself.
func (s *stream) whole(p api.Promise, last uint32) bool {
	if last != 1 || s.attempt != 1 || s.offset != 0 {
		return false
	}
	out := s.of(p)
	return out.Size == int64(len(out.Tail)) && !strings.ContainsRune(out.Tail, '\ufffd')
}

// of returns what p says about this stream.
func (s *stream) of(p api.Promise) api.Stream {
	switch {
	case p.Outcome == nil:
		return api.Stream{}
	case s.name == "stdout":
		return p.Outcome.Stdout
	default:
		return p.Outcome.Stderr
	}
}

// read copies what there is at the offset, after up to wait, and reports
// whether it was the attempt's last.
func (s *stream) read(ctx context.Context, wait time.Duration) (end bool, err error) {
	page, err := s.client.Log(ctx, s.id, api.LogQuery{Stream: s.name, Offset: s.offset, Attempt: s.attempt, Wait: wait})
	if err != nil {
		return false, err
	}
	if gap := page.Offset - s.offset; gap > 0 && s.say != nil {
		s.say(fmt.Sprintf("%s of %s are missing here: a stream keeps its first and last %s",
			bytesText(gap), s.name, bytesText(api.MaxLog/2)))
	}
	if _, err := s.write(page.Body); err != nil {
		return false, err
	}
	s.offset = page.Next
	return page.End, nil
}

func (s *stream) write(p []byte) (int, error) {
	if len(p) > 0 {
		if err := s.beginAt(s.attempt); err != nil {
			return 0, err
		}
	}
	n, err := s.dst.Write(p)
	if err != nil {
		return n, fmt.Errorf("%w: %w", errOutput, err)
	}
	return n, nil
}

// beginAt tells begin of an attempt, once.
func (s *stream) beginAt(attempt uint32) error {
	if s.begin == nil || s.begun >= attempt {
		return nil
	}
	s.begun = attempt
	if err := s.begin(); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

func (s *stream) next(ctx context.Context) {
	if s.turn != nil {
		s.turn(ctx, s.attempt)
	}
	s.attempt++
	s.offset = 0
}

// lastAttempt is the number of p's latest attempt; 0: there was none.
func lastAttempt(p api.Promise) (last uint32) {
	for _, a := range p.Attempts {
		last = max(last, a.Number)
	}
	return last
}

// pause returns after d, or at ctx's end.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// A saved is a file of --save. It holds the output of the last attempt.
type saved struct{ *os.File }

// save creates the file for a stream of id in dir.
func save(dir, id, name string) (saved, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return saved{}, badInput("--save %q: %w", dir, reason(err))
	}
	ext := ".sout"
	if name == "stderr" {
		ext = ".eout"
	}
	f, err := os.Create(filepath.Join(dir, id+ext))
	if err != nil {
		return saved{}, badInput("--save %q: %w", dir, err)
	}
	return saved{f}, nil
}

// begin forgets the attempt before.
func (s saved) begin() error {
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.Truncate(0)
}

// outputFailure ends the command whose output went nowhere: quietly where its
// reader has gone, as `| head` does.
func outputFailure(err error) *failure {
	if errors.Is(err, syscall.EPIPE) {
		return &failure{code: exitSignal + int(syscall.SIGPIPE)}
	}
	return &failure{code: exitFailed, err: err}
}
