// Package blobtest is the conformance suite of blob.Blobs.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// Run checks that what open returns, empty blobs of its own at each call,
// keeps the contract of [blob.Blobs].
func Run(t *testing.T, open func(t *testing.T) blob.Blobs) { RunOn(t, Medium{}, open) }

// A Medium says what is different about blobs because of where they are kept.
type Medium struct {
	Seconds bool // ages are in whole seconds
	Expires bool // what is old goes by itself; Collect removes nothing
}

// grain is the unit of ages.
func (m Medium) grain() time.Duration {
	if m.Seconds {
		return time.Second
	}
	return time.Millisecond
}

// RunOn is [Run] for blobs on a medium of their own.
func RunOn(t *testing.T, m Medium, open func(t *testing.T) blob.Blobs) {
	for name, test := range map[string]func(*testing.T, blob.Blobs){
		"RoundTrip":      m.roundTrip,
		"Missing":        missing,
		"Mismatch":       mismatch,
		"SourceFails":    sourceFails,
		"Canceled":       canceled,
		"List":           list,
		"ListLog":        listLog,
		"KeysStayApart":  keysStayApart,
		"PutAgain":       m.putAgain,
		"Touch":          m.touch,
		"Collect":        m.collect,
		"Sign":           sign,
		"Concurrent":     concurrent,
		"Model":          m.model,
		"PutOverReader":  putOverReader,
		"ContentIsKnown": contentIsKnown,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, b blob.Blobs, key, body string) {
	t.Helper()
	if err := b.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), sha256.Sum256([]byte(body))); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func get(t *testing.T, b blob.Blobs, key string, offset int64) string {
	t.Helper()
	src, err := b.Get(t.Context(), key, offset)
	if err != nil {
		t.Fatalf("Get(%q, %d): %v", key, offset, err)
	}
	defer src.Close()
	body, err := io.ReadAll(src)
	if err != nil {
		t.Fatalf("reading %q: %v", key, err)
	}
	return string(body)
}

// listable reports whether prefix holds a kind and an id.
func listable(prefix string) bool { return strings.Count(prefix, "/") >= 2 }

func keys(t *testing.T, b blob.Blobs, prefix string) []string {
	t.Helper()
	infos, err := b.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("List(%q): %v", prefix, err)
	}
	var found []string
	for _, i := range infos {
		found = append(found, i.Key)
	}
	return found
}

// absent fails unless nothing at all is kept under key.
func absent(t *testing.T, b blob.Blobs, key string) {
	t.Helper()
	if _, err := b.Get(t.Context(), key, 0); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get(%q) = %v, want ErrNotFound", key, err)
	}
	if _, err := b.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat(%q) = %v, want ErrNotFound", key, err)
	}
	if err := b.Touch(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Touch(%q) = %v, want ErrNotFound", key, err)
	}
	if listable(key) && slices.Contains(keys(t, b, key), key) {
		t.Errorf("List(%q) holds it", key)
	}
}

func (m Medium) roundTrip(t *testing.T, b blob.Blobs) {
	large := strings.Repeat("0123456789", 30_000)
	for _, body := range []string{"", "x", "\x00\xff\n", large} {
		sum := promise.Hash(sha256.Sum256([]byte(body)))
		key := blob.ContentKey(sum)
		begin := promise.TimeOf(time.Now().Truncate(m.grain()))
		put(t, b, key, body)
		if got := get(t, b, key, 0); got != body {
			t.Errorf("%d bytes came back as %d others", len(body), len(got))
		}
		info, err := b.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if info.Key != key || info.Size != int64(len(body)) || info.SHA256 != sum && !info.SHA256.IsZero() {
			t.Errorf("Stat = %+v", info)
		}
		if end := promise.TimeOf(time.Now()); info.Written < begin || info.Written > end {
			t.Errorf("written at %d, put between %d and %d", info.Written, begin, end)
		}
	}
	key := blob.ContentKey(sha256.Sum256([]byte(large)))
	for _, offset := range []int64{1, 299_990, 299_999, 300_000, 300_001, 1 << 40} {
		want := large[min(offset, int64(len(large))):]
		if got := get(t, b, key, offset); got != want {
			t.Errorf("from %d: %d bytes, want %d", offset, len(got), len(want))
		}
	}
}

func missing(t *testing.T, b blob.Blobs) {
	absent(t, b, "sha256/00")
	put(t, b, "out/p/1/result", "x")
	for _, key := range []string{"out/p/1", "out/p/1/", "out/p/1/result/x", "out/p/1/resul", "OUT/p/1/result"} {
		absent(t, b, key)
	}
}

func mismatch(t *testing.T, b blob.Blobs) {
	sum := promise.Hash(sha256.Sum256([]byte("hello")))
	for _, c := range []struct {
		body string
		size int64
		sum  promise.Hash
	}{
		{"hell", 5, sum}, {"hello", 4, sum}, {"hello", 6, sum}, {"", 5, sum}, {"hellx", 5, sum},
		{"hello", 4, promise.Hash{}}, {"hello", 6, promise.Hash{}}, {"x", 0, promise.Hash{}},
	} {
		for _, key := range []string{blob.ContentKey(sum), "out/p/1/result"} {
			err := b.Put(t.Context(), key, strings.NewReader(c.body), c.size, c.sum)
			if !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("Put of %q as %d bytes: %v, want ErrMismatch", c.body, c.size, err)
			}
			absent(t, b, key)
		}
	}
	if err := b.Put(t.Context(), "out/p/1/result", strings.NewReader("hello"), 5, promise.Hash{}); err != nil {
		t.Errorf("Put without a hash: %v", err)
	}
}

func sourceFails(t *testing.T, b blob.Blobs) {
	broken := errors.New("broken")
	src := io.MultiReader(strings.NewReader("hello"), errReader{broken})
	if err := b.Put(t.Context(), "k", src, 10, promise.Hash{}); !errors.Is(err, broken) {
		t.Errorf("Put = %v, want %v", err, broken)
	}
	absent(t, b, "k")
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func canceled(t *testing.T, b blob.Blobs) {
	put(t, b, "k", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, get := b.Get(ctx, "k", 0)
	_, stat := b.Stat(ctx, "k")
	_, list := b.List(ctx, "log/p/")
	_, collect := b.Collect(ctx, 1)
	put := b.Put(ctx, "other", strings.NewReader("x"), 1, promise.Hash{})
	for name, err := range map[string]error{"Put": put, "Get": get, "Stat": stat, "List": list, "Touch": b.Touch(ctx, "k"), "Collect": collect} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", name, err)
		}
	}
	absent(t, b, "other")
}

func sign(t *testing.T, b blob.Blobs) {
	put(t, b, "k", "x")
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		req, err := b.Sign(t.Context(), method, blob.Info{Key: "k", Size: 1, SHA256: sha256.Sum256([]byte("x"))})
		if errors.Is(err, blob.ErrNoURL) {
			continue
		}
		if err != nil || req == nil || req.Method != method || req.URL.Host == "" {
			t.Errorf("Sign(%s) = %v, %v", method, req, err)
		}
	}
}

func concurrent(t *testing.T, b blob.Blobs) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 25 {
				body := fmt.Sprint(i % 5)
				key := blob.ContentKey(sha256.Sum256([]byte(body)))
				if err := b.Put(t.Context(), key, strings.NewReader(body), 1, sha256.Sum256([]byte(body))); err != nil {
					t.Errorf("Put: %v", err)
				}
				if src, err := b.Get(t.Context(), key, 0); err != nil {
					t.Errorf("Get: %v", err)
				} else {
					got, err := io.ReadAll(src)
					src.Close()
					if string(got) != body || err != nil {
						t.Errorf("half a blob: %q, %v", got, err)
					}
				}
				own := fmt.Sprintf("log/p/1/%d/%d", g, i)
				if err := b.Put(t.Context(), own, strings.NewReader("x"), 1, promise.Hash{}); err != nil {
					t.Errorf("Put: %v", err)
				}
				if _, err := b.Collect(t.Context(), 1); err != nil {
					t.Errorf("Collect: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(keys(t, b, "log/p/")); n != 200 {
		t.Errorf("%d blobs of 200", n)
	}
}

// putOverReader puts and collects under an open reader, which reads on.
func putOverReader(t *testing.T, b blob.Blobs) {
	body := strings.Repeat("x", 100_000)
	put(t, b, "k", body)
	src, err := b.Get(t.Context(), "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	put(t, b, "k", body)
	if got, err := io.ReadAll(src); string(got) != body || err != nil {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// contentIsKnown puts known content from a source that lies: an error or a
// success, the content stays what its hash says.
func contentIsKnown(t *testing.T, b blob.Blobs) {
	sum := promise.Hash(sha256.Sum256([]byte("hello")))
	key := blob.ContentKey(sum)
	put(t, b, key, "hello")
	if err := b.Put(t.Context(), key, bytes.NewReader([]byte("hellx")), 5, sum); err != nil && !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Put = %v", err)
	}
	if err := b.Put(t.Context(), key, bytes.NewReader([]byte("hell")), 4, sum); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Put of the wrong size = %v, want ErrMismatch", err)
	}
	if got := get(t, b, key, 0); got != "hello" {
		t.Errorf("the content is %q now", got)
	}
}
