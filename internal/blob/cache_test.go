package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/promise"
)

func TestCache(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Blobs { return blob.NewCache(blob.NewMemory(), 16<<20) })
}

// asked counts what reaches the blobs behind a cache.
type asked struct {
	blob.Blobs
	gets, stats int
	broken      error // of what Get returns
}

func (a *asked) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	a.gets++
	src, err := a.Blobs.Get(ctx, key, offset)
	if err == nil && a.broken != nil {
		return io.NopCloser(io.MultiReader(io.LimitReader(src, 2), iotest.ErrReader(a.broken))), nil
	}
	return src, err
}

func (a *asked) Stat(ctx context.Context, key string) (blob.Info, error) {
	a.stats++
	return a.Blobs.Stat(ctx, key)
}

func (a *asked) put(t *testing.T, body []byte) string {
	t.Helper()
	sum := promise.Hash(sha256.Sum256(body))
	if err := a.Blobs.Put(t.Context(), blob.ContentKey(sum), bytes.NewReader(body), int64(len(body)), sum); err != nil {
		t.Fatal(err)
	}
	return blob.ContentKey(sum)
}

func read(t *testing.T, b blob.Blobs, key string, offset int64) (string, error) {
	t.Helper()
	src, err := b.Get(t.Context(), key, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	body, err := io.ReadAll(src)
	return string(body), err
}

// TestCacheSpares: a content is fetched once, and asked for once in ten
// minutes; outputs, whose keys say nothing of their content, each time.
func TestCacheSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &asked{Blobs: blob.NewMemory()}
		c := blob.NewCache(inner, 16<<20)
		key := inner.put(t, []byte("print(1)"))
		for range 3 {
			if got, err := read(t, c, key, 0); got != "print(1)" || err != nil {
				t.Fatalf("read %q, %v", got, err)
			}
			if info, err := c.Stat(t.Context(), key); err != nil || info.Size != 8 {
				t.Fatalf("%+v, %v", info, err)
			}
		}
		if got, _ := read(t, c, key, 5); got != "(1)" {
			t.Errorf("read %q from 5 on", got)
		}
		if inner.gets != 1 || inner.stats != 1 {
			t.Errorf("%d gets, %d stats", inner.gets, inner.stats)
		}
		time.Sleep(11 * time.Minute)
		c.Stat(t.Context(), key)
		if inner.stats != 2 {
			t.Errorf("%d stats after ten minutes", inner.stats)
		}
		if err := c.Touch(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if info, err := c.Stat(t.Context(), key); err != nil || info.Written < promise.TimeOf(time.Now()) || inner.stats != 3 {
			t.Errorf("after a touch: %+v, %v, %d stats", info, err, inner.stats)
		}
		if err := c.Put(t.Context(), "out/a/1/result", strings.NewReader("1"), 1, promise.Hash{}); err != nil {
			t.Fatal(err)
		}
		inner.gets = 0
		read(t, c, "out/a/1/result", 0)
		read(t, c, "out/a/1/result", 0)
		if inner.gets != 2 {
			t.Errorf("an output was kept")
		}
	})
}

// TestCacheKeepsWhatIsPut: a content that came through here is not fetched; one
// that is not what its key says is not kept.
func TestCacheKeepsWhatIsPut(t *testing.T) {
	inner := &asked{Blobs: blob.NewMemory()}
	c := blob.NewCache(inner, 16<<20)
	sum := promise.Hash(sha256.Sum256([]byte("print(1)")))
	key := blob.ContentKey(sum)
	if err := c.Put(t.Context(), key, strings.NewReader("print(2)"), 8, sum); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("another content: %v", err)
	}
	if _, err := c.Get(t.Context(), key, 0); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	if err := c.Put(t.Context(), key, strings.NewReader("print(1)"), 8, sum); err != nil {
		t.Fatal(err)
	}
	inner.gets = 0
	if got, err := read(t, c, key, 0); got != "print(1)" || err != nil || inner.gets != 0 {
		t.Errorf("read %q, %v, %d gets", got, err, inner.gets)
	}
}

// TestCacheKnowsWhatWasPutAtOnce: where nothing rides a content is put, is there
// without any write, and is asked for by nobody for ten minutes.
func TestCacheKnowsWhatWasPutAtOnce(t *testing.T) {
	small, large := &asked{Blobs: blob.NewMemory()}, &asked{Blobs: blob.NewMemory()}
	c := blob.NewCache(blob.BySize{Small: small, Large: large}, 16<<20)
	for in, body := range map[*asked][]byte{small: []byte("print(1)"), large: make([]byte, 256<<10+1)} {
		sum := promise.Hash(sha256.Sum256(body))
		key := blob.ContentKey(sum)
		if _, rides, err := c.Ride(t.Context(), key, body, sum); rides || err != nil {
			t.Fatalf("it rides: %t, %v", rides, err)
		}
		info, err := c.Stat(t.Context(), key)
		if err != nil || info.Key != key || info.Size != int64(len(body)) || info.SHA256 != sum || small.stats+large.stats != 0 {
			t.Errorf("%+v, %v, %d requests", info, err, small.stats+large.stats)
		}
		if info, err := in.Blobs.Stat(t.Context(), key); err != nil || info.Size != int64(len(body)) {
			t.Errorf("what is there is %+v, %v", info, err)
		}
	}
	one, two := promise.Hash(sha256.Sum256([]byte("one"))), []byte("two")
	if _, _, err := c.Ride(t.Context(), blob.ContentKey(one), two, one); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("another content: %v", err)
	}
	if _, err := c.Stat(t.Context(), blob.ContentKey(one)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
}

// TestCacheIsBounded: large contents pass through, and many small ones drive
// out those not used for the longest time.
func TestCacheIsBounded(t *testing.T) {
	inner := &asked{Blobs: blob.NewMemory()}
	c := blob.NewCache(inner, 16<<20)
	large := bytes.Repeat([]byte("x"), 256<<10+1)
	key := inner.put(t, large)
	for range 2 {
		if got, err := read(t, c, key, 0); got != string(large) || err != nil {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	}
	if inner.gets != 2 {
		t.Errorf("a content over the limit was kept")
	}
	first := inner.put(t, []byte("first"))
	read(t, c, first, 0)
	for n := range 65 { // of 256 KiB each, 16 MiB in all
		large[0] = byte(n)
		read(t, c, inner.put(t, large[:256<<10]), 0)
	}
	inner.gets = 0
	read(t, c, first, 0)
	if inner.gets != 1 {
		t.Errorf("more than 16 MiB were kept")
	}
}

// TestCacheKeepsNoPart: a read that breaks off is told, and nothing of it kept.
func TestCacheKeepsNoPart(t *testing.T) {
	inner := &asked{Blobs: blob.NewMemory(), broken: errors.New("the line is dead")}
	c := blob.NewCache(inner, 16<<20)
	key := inner.put(t, []byte("print(1)"))
	if got, err := read(t, c, key, 0); got != "pr" || !errors.Is(err, inner.broken) {
		t.Errorf("read %q, %v", got, err)
	}
	inner.broken = nil
	if got, err := read(t, c, key, 0); got != "print(1)" || err != nil {
		t.Errorf("then %q, %v", got, err)
	}
}
