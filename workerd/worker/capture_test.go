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
	return &stream{name: "stdout", half: half, base: t.Context(), put: s.put}, s
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
