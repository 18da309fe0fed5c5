package blobtest

import (
	"crypto/sha256"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// tick returns once what is put is younger than that.
func (m Medium) tick(age promise.Time) {
	<-time.After(time.Until(age.Std().Add(m.grain())))
}

func (m Medium) putAgain(t *testing.T, b blob.Blobs) {
	for _, key := range []string{blob.ContentKey(sha256.Sum256([]byte("x"))), "out/p/1/result"} {
		put(t, b, key, "x")
		first := written(t, b, key)
		m.tick(first)
		put(t, b, key, "x")
		if second := written(t, b, key); second <= first {
			t.Errorf("%s: put at %d, again later, and as old as %d", key, first, second)
		}
		if got := get(t, b, key, 0); got != "x" {
			t.Errorf("%s holds %q", key, got)
		}
	}
}

func written(t *testing.T, b blob.Blobs, key string) promise.Time {
	t.Helper()
	info, err := b.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return info.Written
}

func (m Medium) touch(t *testing.T, b blob.Blobs) {
	put(t, b, "k", "x")
	first := written(t, b, "k")
	m.tick(first)
	if err := b.Touch(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if second := written(t, b, "k"); second <= first {
		t.Errorf("put at %d, touched later, and as old as %d", first, second)
	}
	if got := get(t, b, "k", 0); got != "x" {
		t.Errorf("touched, it holds %q", got)
	}
}

func (m Medium) collect(t *testing.T, b blob.Blobs) {
	for _, key := range []string{"log/p/1/stdout/0", "log/p/1/stdout/1", "out/p/1/result", "touched", "again"} {
		put(t, b, key, "x")
	}
	old := written(t, b, "again")
	if m.Expires {
		if n, err := b.Collect(t.Context(), old+1); n != 0 || err != nil {
			t.Errorf("Collect = %d, %v, want 0", n, err)
		}
		return
	}
	if n, err := b.Collect(t.Context(), written(t, b, "log/p/1/stdout/0")); n != 0 || err != nil {
		t.Fatalf("Collect of what is older than the oldest = %d, %v", n, err)
	}
	m.tick(old)
	put(t, b, "young", "x")
	put(t, b, "again", "x")
	if err := b.Touch(t.Context(), "touched"); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Collect(t.Context(), old+1); n != 3 || err != nil {
		t.Fatalf("Collect = %d, %v, want 3", n, err)
	}
	for _, key := range []string{"again", "touched", "young"} {
		get(t, b, key, 0)
	}
	for _, key := range []string{"out/p/1/result", "log/p/1/stdout/0", "log/p/1/stdout/1"} {
		absent(t, b, key)
	}
	put(t, b, "log/p/1/stdout/0", "y")
	if got := get(t, b, "log/p/1/stdout/0", 0); got != "y" {
		t.Errorf("collected and put again, it holds %q", got)
	}
}
