package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"modulate/internal/promise"
)

// Sizes and times of captured output.
const (
	room       = 512                    // bytes of outputs that ride in the record
	chunkReady = 64 << 10               // bytes that are shipped at once
	chunkMost  = 1 << 20                // bytes of one chunk at most
	newest     = 2 << 20                // bytes after the head that are shipped at a time
	chunkWait  = 250 * time.Millisecond // how long fewer are held back
	billedWait = time.Second            // the same where each chunk is billed and somebody follows
)

// A stream takes in what a script writes to one of its outputs, exactly. The
// head is shipped in chunks while the script runs; beyond it the last bytes
// are kept in a ring, and shipped when the script has ended. While somebody
// follows, the newest of those are shipped too, a few each time. A Write never waits for the blobs: what they do not take yet is at
// most half, like the ring. A stream that is short and over soon is not shipped
// at all.
type stream struct {
	name     string
	half     int             // bytes kept of its head, and of its tail
	base     context.Context // of what is shipped while the script runs
	put      putter
	show     putter        // keeps what a follower sees before its time
	audience *audience     // who follows it; nil: nobody
	soon     time.Duration // how long less than chunkReady is held back
	late     time.Duration // the same where nobody follows; 0: soon

	mu      sync.Mutex
	size    int64     // bytes written
	last    []byte    // the end of them, room bytes or a few more
	shipped int64     // bytes of the head that stand in the blobs
	head    []byte    // the bytes after those
	waiting time.Time // since when there are any
	trying  int       // of them, those in a chunk whose fate is not known: it stays as it is
	live    int64     // up to where the bytes after the head were shipped, last
	ring    []byte    // the bytes after the head; full, it is half long and begins at at
	at      int

	timer  *time.Timer   // ships what has waited for long enough
	vain   backoff       // how often the blobs did not take it
	busy   chan struct{} // closed when the shipping goroutine ends; nil: there is none
	cancel context.CancelFunc
	closed bool
}

// A putter keeps one chunk of a stream.
type putter func(ctx context.Context, stream string, offset int64, chunk []byte) error

// Write takes p in. It never fails.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(p)
	n := int(min(int64(len(p)), max(0, int64(s.half)-s.size)))
	known := int(min(int64(n), max(0, s.shipped-s.size))) // only where it was resumed
	s.size += int64(len(p))
	if len(s.head) == 0 {
		s.waiting = time.Now()
	}
	s.head = append(s.head, p[known:n]...)
	s.wrap(p[n:])
	s.arm()
	return len(p), nil
}

// resume makes s one that another worker began: its first shipped bytes, which
// stand in the blobs, are written to s again and not shipped again. It comes
// before the first Write.
func (s *stream) resume(shipped int64) { s.shipped = min(shipped, int64(s.half)) }

// Skip says that nobody has any more what was written, behind a whole head, before
// offset to: it is what a keeper calls that waited long for a worker.
func (s *stream) Skip(to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = to
	s.last, s.ring, s.at = nil, nil, 0
}

func (s *stream) remember(p []byte) {
	if len(p) >= room {
		s.last = append(s.last[:0], p[len(p)-room:]...)
		return
	}
	s.last = append(s.last, p...)
	if n := len(s.last) - room; n > 0 {
		s.last = append(s.last[:0], s.last[n:]...)
	}
}

// wrap puts p into the ring, over the oldest bytes once it is full.
func (s *stream) wrap(p []byte) {
	if len(p) > s.half {
		p = p[len(p)-s.half:]
	}
	n := min(len(p), s.half-len(s.ring))
	s.ring = append(s.ring, p[:n]...)
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = copy(s.ring[s.at:], p)
		s.at = (s.at + n) % s.half
	}
}

// arm sees to it that the head is shipped in time. s.mu is held.
func (s *stream) arm() {
	switch {
	case s.closed || s.busy != nil || len(s.head) == 0 && !s.beyond():
	case s.vain.tries > 0:
		s.wait(s.vain.next())
	case len(s.head) >= chunkReady:
		s.start()
	default:
		s.wait(s.soon)
	}
}

// beyond reports whether a follower has not seen all that came after the head.
// s.mu is held.
func (s *stream) beyond() bool {
	return s.audience != nil && s.size > max(s.live, int64(s.half))
}

// wait ships the head after d, or when it was to be shipped already. s.mu is
// held.
func (s *stream) wait(d time.Duration) {
	if s.timer != nil {
		return
	}
	s.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timer = nil
		if !s.closed && s.busy == nil {
			s.start()
		}
	})
}

// start ships the head in a goroutine. s.mu is held.
func (s *stream) start() {
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(s.base)
	s.busy = make(chan struct{})
	go s.ship(ctx)
}

// ship ships what there is of the head until little is left; nothing, where
// that is little and can wait. Then it ships the newest of what came after it.
func (s *stream) ship(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for more := s.wanted(ctx); more && err == nil && !s.closed; more = len(s.head) >= chunkReady {
		err = s.shipOne(ctx, s.put)
	}
	if err == nil && len(s.head) == 0 && s.beyond() && s.follows(ctx) {
		err = s.shipNewest(ctx)
	}
	if err == nil {
		s.vain = backoff{}
	} else {
		s.vain.tries = max(s.vain.tries, 1)
	}
	close(s.busy)
	s.busy = nil
	s.cancel()
	s.arm()
}

// wanted reports whether the head is to be shipped now. s.mu is held, but not
// while the audience is asked.
func (s *stream) wanted(ctx context.Context) bool {
	switch {
	case len(s.head) == 0:
		return false
	case s.late == 0, s.trying > 0, len(s.head) >= chunkReady, time.Since(s.waiting) >= s.late:
		return true
	default:
		return s.follows(ctx)
	}
}

// follows asks the audience. s.mu is held, but not meanwhile.
func (s *stream) follows(ctx context.Context) bool {
	if s.audience == nil {
		return false
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.audience.follows(ctx)
}

// shipNewest ships what came after the head and was not shipped yet, its last
// newest bytes at the most. What does not arrive is not shipped again before the
// end. s.mu is held, but not while the blobs are asked.
func (s *stream) shipNewest(ctx context.Context) error {
	s.live = max(s.live, int64(s.half), s.size-newest)
	for end := s.size; s.live < end && !s.closed; {
		from, n := s.live, int(min(chunkMost, end-s.live))
		if s.size-from > int64(len(s.ring)) {
			return nil // overwritten meanwhile
		}
		at := (s.at + len(s.ring) - int(s.size-from)) % len(s.ring)
		chunk := make([]byte, n)
		copy(chunk[copy(chunk, s.ring[at:]):], s.ring)
		s.live += int64(n)
		s.mu.Unlock()
		err := s.show(ctx, s.name, from, chunk)
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// shipOne ships the next chunk of the head. s.mu is held, but not while the
// blobs are asked.
func (s *stream) shipOne(ctx context.Context, put putter) error {
	if s.trying == 0 {
		s.trying = min(len(s.head), chunkMost)
	}
	offset, chunk := s.shipped, s.head[:s.trying]
	s.mu.Unlock()
	err := put(ctx, s.name, offset, chunk)
	s.mu.Lock()
	if err != nil {
		return err
	}
	s.head = s.head[s.trying:]
	s.shipped += int64(s.trying)
	s.trying = 0
	s.waiting = time.Now()
	if len(s.head) == 0 {
		s.head = nil
	}
	return nil
}

// end stops the shipping. Nothing is written any more: the script is dead.
func (s *stream) end() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	busy := s.busy
	if busy != nil {
		s.cancel()
	}
	s.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

// flush ships all that is left, after end.
func (s *stream) flush(ctx context.Context, put putter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.head) > 0 {
		if err := s.shipOne(ctx, put); err != nil {
			return err
		}
	}
	tail := slices.Concat(s.ring[s.at:], s.ring[:s.at])
	for offset := s.size - int64(len(tail)); len(tail) > 0; {
		chunk := tail[:min(len(tail), chunkMost)]
		if err := put(ctx, s.name, offset, chunk); err != nil {
			return err
		}
		tail = tail[len(chunk):]
		offset += int64(len(chunk))
	}
	s.ring, s.at = nil, 0
	return nil
}

// describe returns what the record says of the stream with at most allowed
// bytes of it, and whether the rest must be flushed for that: where those bytes
// are not the whole, or where stored asks for it.
func (s *stream) describe(allowed int64, stored bool) promise.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	tail := min(int64(len(s.last)), allowed)
	return promise.Stream{
		Size:   s.size,
		Cut:    s.size - min(s.size, int64(s.half+len(s.ring))),
		Tail:   s.last[int64(len(s.last))-tail:],
		Stored: s.size > tail || stored && s.size > 0,
	}
}
