package worker

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
)

// sink is a store for chunks that checks what a reader would trip over.
type sink struct {
	t      *testing.T
	mu     sync.Mutex
	chunks map[int64][]byte
	broken bool
	block  chan struct{} // nil: it does not
}

func (s *sink) put(ctx context.Context, _ string, offset int64, chunk []byte) error {
	s.mu.Lock()
	block, broken := s.block, s.broken
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.chunks[offset]; ok && !bytes.Equal(old, chunk) {
		s.t.Errorf("the chunk at %d was put twice with other bytes", offset)
	}
	s.chunks[offset] = bytes.Clone(chunk)
	if broken {
		return errors.New("the answer is lost")
	}
	return nil
}

// whole returns the chunks laid out in a stream of that size, and how many
// bytes are missing in its middle.
func (s *sink) whole(size int64) (b []byte, missing int64) {
	b = make([]byte, size)
	missing = size
	for offset, chunk := range s.chunks {
		copy(b[offset:], chunk)
		missing -= int64(len(chunk))
	}
	return b, missing
}

func newStream(t *testing.T, half int) (*stream, *sink) {
	s := &sink{t: t, chunks: map[int64][]byte{}}
	return &stream{name: "stdout", half: half, base: t.Context(), put: s.put, show: s.put, soon: chunkWait}, s
}

// noise is n bytes that repeat nowhere soon.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func TestStreamKeepsHeadAndTail(t *testing.T) {
	const half = 1 << 20 // a smaller one than the worker's
	all := noise(5*half + 7)
	for _, size := range []int{0, 1, room, room + 1, half - 1, half, half + 1, 2 * half, 2*half + 1, len(all)} {
		for _, piece := range []int{4<<10 - 1, 3 * half} {
			synctest.Test(t, func(t *testing.T) {
				st, sink := newStream(t, half)
				data := all[:size]
				for rest := data; len(rest) > 0; {
					n := min(piece, len(rest))
					st.Write(rest[:n])
					rest = rest[n:]
				}
				st.end()
				rec := st.describe(room, false)
				if rec.Stored {
					if err := st.flush(t.Context(), sink.put); err != nil {
						t.Fatal(err)
					}
				}
				cut := int64(max(0, size-2*half))
				if rec.Size != int64(size) || rec.Cut != cut || !bytes.HasSuffix(data, rec.Tail) || len(rec.Tail) != min(size, room) {
					t.Fatalf("%d bytes in pieces of %d: %d, cut %d, a tail of %d", size, piece, rec.Size, rec.Cut, len(rec.Tail))
				}
				if rec.Stored != (size > room) {
					t.Errorf("%d bytes: stored %v", size, rec.Stored)
				}
				if !rec.Stored {
					return
				}
				got, missing := sink.whole(int64(size))
				head := min(size, half)
				tail := max(head, size-half)
				if missing != cut || !bytes.Equal(got[:head], data[:head]) || !bytes.Equal(got[tail:], data[tail:]) {
					t.Errorf("%d bytes in pieces of %d: %d are missing, want %d, or others are there", size, piece, missing, cut)
				}
			})
		}
	}
}

// Blobs that do not answer stop no script: every write is taken at once.
func TestSlowBlobsNeverBlockTheScript(t *testing.T) {
	const half = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		st, sink := newStream(t, half)
		sink.block = make(chan struct{})
		data := noise(3 * half)
		for rest := data; len(rest) > 0; rest = rest[half/8:] {
			st.Write(rest[:half/8])
			time.Sleep(time.Second)
		}
		if held := len(st.head) + len(st.ring); held > 2*half {
			t.Errorf("%d bytes are held, at most %d", held, 2*half)
		}
		close(sink.block)
		st.end()
		if err := st.flush(t.Context(), sink.put); err != nil {
			t.Fatal(err)
		}
		got, missing := sink.whole(3 * half)
		if missing != half || !bytes.Equal(got[:half], data[:half]) || !bytes.Equal(got[2*half:], data[2*half:]) {
			t.Errorf("%d bytes are missing, want %d, or others are there", missing, half)
		}
	})
}

// A chunk whose put may have happened is put again as it was, however much has
// come since.
func TestChunkIsPutAgainAsItWas(t *testing.T) {
	const half = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		st, sink := newStream(t, half)
		sink.broken = true
		data := noise(30_000)
		for rest := data; len(rest) > 0; rest = rest[1000:] {
			st.Write(rest[:1000])
			time.Sleep(time.Second)
		}
		sink.mu.Lock()
		sink.broken = false
		sink.mu.Unlock()
		st.end()
		if err := st.flush(t.Context(), sink.put); err != nil {
			t.Fatal(err)
		}
		if got, missing := sink.whole(30_000); missing != 0 || !bytes.Equal(got, data) {
			t.Errorf("%d bytes are missing, or others are there", missing)
		}
	})
}

// crowd is who follows, as an audience is told.
type crowd struct {
	until promise.Time
	err   error
	block chan struct{} // nil: it does not
	asked int
}

func (c *crowd) ask(ctx context.Context) (promise.Time, error) {
	c.asked++
	if c.block != nil {
		select {
		case <-c.block:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return c.until, c.err
}

func timeNow() promise.Time { return promise.TimeOf(time.Now()) }

// inCrowd runs f over a stream each of whose chunks costs.
func inCrowd(t *testing.T, f func(st *stream, sink *sink, c *crowd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st, sink := newStream(t, 1<<20)
		c := &crowd{}
		st.audience = &audience{ask: c.ask, now: timeNow, gap: billedWait}
		st.soon, st.late = billedWait, 15*time.Second
		f(st, sink, c)
		st.end()
	})
}

// shipped is how many chunks are there.
func (s *sink) shipped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.chunks)
}

// lines writes a line each second.
func lines(st *stream, n int) {
	for range n {
		st.Write([]byte("a line\n"))
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

func TestWhatIsFollowedIsShippedWithinASecond(t *testing.T) {
	inCrowd(t, func(st *stream, sink *sink, c *crowd) {
		c.until = timeNow().Add(time.Minute)
		lines(st, 30)
		if sink.shipped() != 30 || c.asked != 1 {
			t.Errorf("%d chunks of 30, asked %d times, want once: a note holds for a minute", sink.shipped(), c.asked)
		}
		time.Sleep(time.Hour)
		lines(st, 5)
		if sink.shipped() != 30 {
			t.Errorf("%d chunks: nobody follows any more", sink.shipped())
		}
	})
}

// Where nobody follows there is a chunk each 15 s, or one of 64 KB at once.
func TestWhatNobodyFollowsIsShippedSeldom(t *testing.T) {
	inCrowd(t, func(st *stream, sink *sink, c *crowd) {
		lines(st, 60)
		if n := sink.shipped(); n < 3 || n > 4 || c.asked > 60 {
			t.Errorf("%d chunks in a minute, asked %d times", n, c.asked)
		}
		before := sink.shipped()
		st.Write(noise(chunkReady))
		synctest.Wait()
		if n := sink.shipped(); n != before+1 {
			t.Errorf("%d chunks of 64 KB at once", n-before)
		}
	})
}

func TestAFollowerWhoComesIsHeardWithinASecond(t *testing.T) {
	inCrowd(t, func(st *stream, sink *sink, c *crowd) {
		lines(st, 5)
		c.until = timeNow().Add(time.Minute)
		if n := sink.shipped(); n != 0 {
			t.Errorf("%d chunks, and nobody followed", n)
		}
		lines(st, 1)
		if n := sink.shipped(); n != 1 {
			t.Errorf("%d chunks a second later", n)
		}
	})
}

// A store that does not say who follows stops neither the script nor what is
// shipped.
func TestASilentAudience(t *testing.T) {
	inCrowd(t, func(st *stream, sink *sink, c *crowd) {
		c.err = errors.New("no answer")
		lines(st, 16)
		if n := sink.shipped(); n != 1 {
			t.Errorf("%d chunks in 16 s", n)
		}
		c.block = make(chan struct{})
		began := time.Now()
		st.Write([]byte("a line\n"))
		time.Sleep(billedWait)
		synctest.Wait()
		st.Write(noise(chunkReady))
		st.end() // with the question still open
		if took := time.Since(began); took > billedWait {
			t.Errorf("the script waited for %s", took-billedWait)
		}
	})
}

// Behind the head a follower gets the newest, a few each time; nobody else gets anything, and all keep the same head and tail.
func TestTheNewestIsShippedToFollowers(t *testing.T) {
	const half = 3 << 20
	for name, c := range map[string]struct {
		followed bool
		second   int // bytes written in each
		seen     func(total int) int
	}{
		"followed":   {true, 1_000_000, func(total int) int { return total }},
		"flood":      {true, 8 << 20, func(total int) int { return half + newest*total/(8<<20) }},
		"unfollowed": {false, 1_000_000, func(int) int { return half }},
	} {
		t.Run(name, func(t *testing.T) {
			inCrowd(t, func(st *stream, sink *sink, crowd *crowd) {
				st.half = half
				if c.followed {
					crowd.until = timeNow().Add(time.Hour)
				}
				all := noise(20 * c.second)
				for rest := all; len(rest) > 0; {
					n := min(c.second/10, len(rest))
					st.Write(rest[:n])
					rest = rest[n:]
					time.Sleep(time.Second / 10)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				sink.mu.Lock()
				got, missing := sink.whole(int64(len(all)))
				sink.mu.Unlock()
				if seen, want := len(all)-int(missing), c.seen(len(all)); seen < want-2*newest || seen > want+2*newest {
					t.Errorf("%d bytes of %d were seen, want about %d", seen, len(all), want)
				}
				if name == "followed" && !bytes.Equal(got, all) {
					t.Error("others were seen")
				}
				st.end()
				if err := st.flush(t.Context(), sink.put); err != nil {
					t.Fatal(err)
				}
				got, _ = sink.whole(int64(len(all)))
				if !bytes.Equal(got[:half], all[:half]) || !bytes.Equal(got[len(all)-half:], all[len(all)-half:]) {
					t.Error("head or tail is not what was written")
				}
			})
		})
	}
}

// A keeper that waited long for a worker has the head and the end, and knows how
// much is missing.
func TestStreamIsResumedBehindACut(t *testing.T) {
	const half = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		st, sink := newStream(t, half)
		all := noise(5 * half)
		st.Write(all[:half+5])
		st.Skip(4 * half)
		st.Write(all[4*half:])
		st.end()
		rec := st.describe(room, false)
		if err := st.flush(t.Context(), sink.put); err != nil {
			t.Fatal(err)
		}
		got, missing := sink.whole(5 * half)
		if missing != 3*half || rec.Size != 5*half || rec.Cut != 3*half || !bytes.HasSuffix(all, rec.Tail) || len(rec.Tail) != room {
			t.Errorf("%d bytes are missing, size %d, cut %d, a tail of %d", missing, rec.Size, rec.Cut, len(rec.Tail))
		}
		if !bytes.Equal(got[:half], all[:half]) || !bytes.Equal(got[4*half:], all[4*half:]) {
			t.Error("head or tail is not what was written")
		}
	})
}

// A stream that another worker began is written again from its start: what
// stands in the blobs is not shipped again, and nothing is lost or doubled.
func TestStreamIsResumed(t *testing.T) {
	const half = 1 << 20
	all := noise(2*half + 9)
	for _, shipped := range []int{0, 1, room, 70_000, half - 1, half} {
		for _, size := range []int{0, room, 70_001, half, len(all)} {
			synctest.Test(t, func(t *testing.T) {
				st, sink := newStream(t, half)
				there := min(shipped, size)
				if there > 0 {
					sink.chunks[0] = bytes.Clone(all[:there])
				}
				st.resume(int64(there))
				for rest := all[:size]; len(rest) > 0; {
					n := min(999, len(rest))
					st.Write(rest[:n])
					rest = rest[n:]
				}
				st.end()
				rec := st.describe(room, false)
				if err := st.flush(t.Context(), sink.put); err != nil {
					t.Fatal(err)
				}
				cut := int64(max(0, size-2*half))
				if rec.Size != int64(size) || rec.Cut != cut || !bytes.HasSuffix(all[:size], rec.Tail) || len(rec.Tail) != min(size, room) {
					t.Fatalf("%d of %d bytes shipped: %d, cut %d, a tail of %d", there, size, rec.Size, rec.Cut, len(rec.Tail))
				}
				got, missing := sink.whole(int64(size))
				head := min(size, half)
				if missing != cut || !bytes.Equal(got[:head], all[:head]) || !bytes.Equal(got[size-min(size, half):], all[size-min(size, half):size]) {
					t.Errorf("%d of %d bytes shipped: %d are missing, want %d, or others are there", there, size, missing, cut)
				}
			})
		}
	}
}

// What another worker has shipped is found by what stands in the blobs.
func TestOutputIsResumed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wk, err := New(Config{Engine: w.host.Engine, Name: "w", Runner: runner.Exec{}})
		if err != nil {
			t.Fatal(err)
		}
		j := &job{w: wk, id: "x", version: 2, stdout: stream{name: "stdout", half: 1 << 20}, stderr: stream{name: "stderr", half: 1 << 20}}
		for key, size := range map[string]int{
			blob.LogKey("x", 2, "stdout", 0): 100, blob.LogKey("x", 2, "stdout", 50): 90, blob.LogKey("x", 2, "stdout", 141): 9,
			blob.LogKey("x", 1, "stderr", 0): 7, blob.LogKey("x", 2, "stderr", 5): 7,
		} {
			if err := w.blobs.Put(t.Context(), key, bytes.NewReader(noise(size)), int64(size), promise.Hash{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.resumeOutput(t.Context()); err != nil || j.stdout.shipped != 140 || j.stderr.shipped != 0 {
			t.Errorf("stdout %d, stderr %d, %v", j.stdout.shipped, j.stderr.shipped, err)
		}
	})
}
