package fileblob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/fileblob"
	"modulate/internal/promise"
)

func TestBlobs(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Blobs { return open(t, t.TempDir()) })
}

// TestMain runs this binary as another process on the same directory, where
// a test asks for one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FILEBLOB_PUT"); dir != "" {
		if err := putMany(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *fileblob.Blobs {
	t.Helper()
	b, err := fileblob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, b blob.Blobs, key, body string) {
	t.Helper()
	if err := b.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), promise.Hash{}); err != nil {
		t.Fatal(err)
	}
}

// files returns what lies below dir, the lock apart.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && d.Name() != "lock" {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	put(t, open(t, dir), "out/p/1/result", "x")
	src, err := open(t, dir).Get(t.Context(), "out/p/1/result", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if body, err := io.ReadAll(src); string(body) != "x" || err != nil {
		t.Errorf("read %q, %v", body, err)
	}
}

// putMany puts what each of several processes puts.
func putMany(ctx context.Context, dir string) error {
	b, err := fileblob.Open(dir)
	if err != nil {
		return err
	}
	for i := range 50 {
		body := fmt.Sprint("body ", i)
		sum := promise.Hash(sha256.Sum256([]byte(body)))
		for _, key := range []string{blob.ContentKey(sum), fmt.Sprintf("log/p/%d/x/0", i)} {
			if err := b.Put(ctx, key, strings.NewReader(body), int64(len(body)), sum); err != nil {
				return err
			}
			if _, err := b.Stat(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestSeveralProcesses(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "FILEBLOB_PUT="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("another process: %v\n%s", err, out)
			}
		})
	}
	collector := open(t, dir)
	for range 50 { // finds nothing old, but whatever directory is empty just then
		if _, err := collector.Collect(t.Context(), 1); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if infos, err := open(t, dir).List(t.Context(), ""); len(infos) != 100 || err != nil {
		t.Errorf("%d blobs, %v, want 100", len(infos), err)
	}
	if left := files(t, filepath.Join(dir, "tmp")); len(left) != 0 {
		t.Errorf("left in tmp: %q", left)
	}
}

func TestKnownContentIsNotRead(t *testing.T) {
	b := open(t, t.TempDir())
	sum := promise.Hash(sha256.Sum256([]byte("hello")))
	key := blob.ContentKey(sum)
	put(t, b, key, "hello")
	src := bytes.NewReader([]byte("hello"))
	if err := b.Put(t.Context(), key, src, 5, sum); err != nil {
		t.Fatal(err)
	}
	if src.Len() != 5 {
		t.Errorf("%d bytes were read", 5-src.Len())
	}
}

// A blob that a Put has refreshed is never collected for what it was before.
func TestCollectAgainstRefresh(t *testing.T) {
	dir := t.TempDir()
	b, other := open(t, dir), open(t, dir)
	body := "hello"
	sum := promise.Hash(sha256.Sum256([]byte(body)))
	old := time.Now().Add(-time.Hour)
	for _, key := range []string{blob.ContentKey(sum), "out/p/1/result"} {
		for range 40 {
			put(t, b, key, body)
			age(t, dir, old)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := b.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), sum); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := other.Collect(t.Context(), promise.TimeOf(old)+1000); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			if _, err := b.Stat(t.Context(), key); err != nil {
				t.Fatalf("put again and collected at once: %v", err)
			}
		}
	}
}

// age gives every blob below dir that modification time.
func age(t *testing.T, dir string, to time.Time) {
	t.Helper()
	for _, f := range files(t, filepath.Join(dir, "blobs")) {
		if err := os.Chtimes(filepath.Join(dir, "blobs", f), to, to); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCollectCleans(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	put(t, b, "log/p/1/stdout/0", "x")
	put(t, b, "log/q/1/stdout/0", "x")
	dead, alive := filepath.Join(dir, "tmp", "dead"), filepath.Join(dir, "tmp", "alive")
	for _, f := range []string{dead, alive} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, f := range []string{dead, filepath.Join(dir, "blobs/log/p/1/stdout/0~")} {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.Collect(t.Context(), promise.TimeOf(old)+1); n != 1 || err != nil {
		t.Fatalf("Collect = %d, %v, want 1", n, err)
	}
	want := []string{"blobs", "blobs/log", "blobs/log/q", "blobs/log/q/1", "blobs/log/q/1/stdout", "blobs/log/q/1/stdout/0~", "tmp", "tmp/alive"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are\n %q, want\n %q", got, want)
	}
}

// What is not ours is neither listed nor removed.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	put(t, b, "a/b", "x")
	foreign := []string{"blobs/a/README", "blobs/a/B~", "blobs/a/%62~", "blobs/x~"}
	for _, f := range foreign[:3] {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b~", filepath.Join(dir, foreign[3])); err != nil {
		t.Fatal(err)
	}
	if infos, err := b.List(t.Context(), ""); len(infos) != 1 || err != nil {
		t.Errorf("List = %+v, %v", infos, err)
	}
	if n, err := b.Collect(t.Context(), promise.TimeOf(time.Now())+1000); n != 1 || err != nil {
		t.Errorf("Collect = %d, %v", n, err)
	}
	for _, f := range foreign {
		if _, err := os.Lstat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fileblob.Open(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Open of a file = %v, want an error that names it", err)
	}
}

// A Put that finds its directory gone says so as an unknown outcome, never as
// a blob that is missing.
func TestPutWithoutDirectory(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	err := b.Put(t.Context(), "k", strings.NewReader("x"), 1, promise.Hash{})
	if err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Put = %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	blobs := open(b, b.TempDir())
	body := strings.Repeat("x", 500)
	i := 0
	for b.Loop() {
		i++
		put(b, blobs, fmt.Sprintf("log/p/1/stdout/%020d", i), body)
	}
}

func BenchmarkPutNewDirectory(b *testing.B) {
	blobs := open(b, b.TempDir())
	body := strings.Repeat("x", 500)
	i := 0
	for b.Loop() {
		i++
		put(b, blobs, fmt.Sprintf("log/%d/1/stdout/0", i), body)
	}
}

func BenchmarkPutKnown(b *testing.B) {
	blobs := open(b, b.TempDir())
	sum := promise.Hash(sha256.Sum256([]byte("x")))
	for b.Loop() {
		if err := blobs.Put(b.Context(), blob.ContentKey(sum), strings.NewReader("x"), 1, sum); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutParallel(b *testing.B) {
	blobs := open(b, b.TempDir())
	body := strings.Repeat("x", 500)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("log/p/1/stdout/%d", time.Now().UnixNano())
			if err := blobs.Put(b.Context(), key, strings.NewReader(body), 500, promise.Hash{}); err != nil {
				b.Error(err)
			}
		}
	})
}
