// Package fileblob keeps blobs as files below one directory, for any number of
// processes at once.
//
//	blobs/   one file a blob; path.go says how a key becomes a path
//	tmp/     what is being written; moved into blobs/ when it is whole and synced
//	lock     shared by who makes a blob young, exclusive for who removes one
//
// The age of a blob is the modification time of its file.
package fileblob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// Blobs implements [blob.Blobs] on a directory.
type Blobs struct {
	root string // of the blobs
	tmp  string
	lock string
}

var _ blob.Blobs = (*Blobs)(nil)

// Open opens dir, which is made where it is missing.
func Open(dir string) (*Blobs, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening blobs: %w", err)
	}
	b := &Blobs{root: filepath.Join(dir, "blobs"), tmp: filepath.Join(dir, "tmp"), lock: filepath.Join(dir, "lock")}
	for _, d := range []string{b.root, b.tmp} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening blobs: %w", err)
		}
	}
	f, err := os.OpenFile(b.lock, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening blobs: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening blobs: %w", err)
	}
	return b, syncDir(dir)
}

// Put implements [blob.Blobs]. Content that is here under its hash is not read
// again, only made young.
func (b *Blobs) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	path, err := b.path(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if key == blob.ContentKey(sum) {
		if known, err := b.refresh(path, size); known || err != nil {
			return keeping(key, err)
		}
	}
	tmp, err := b.write(ctx, src, size, sum)
	if err != nil {
		return keeping(key, err)
	}
	made, err := b.place(tmp, path)
	if err != nil {
		os.Remove(tmp)
		return keeping(key, err)
	}
	return keeping(key, syncDirs(filepath.Dir(path), made))
}

// Get implements [blob.Blobs].
func (b *Blobs) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	path, err := b.path(key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, finding(key, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, finding(key, err)
	}
	return f, nil
}

// Stat implements [blob.Blobs].
func (b *Blobs) Stat(ctx context.Context, key string) (blob.Info, error) {
	path, err := b.path(key)
	if err != nil {
		return blob.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return blob.Info{}, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return blob.Info{}, finding(key, err)
	}
	return info(key, fi), nil
}

// Touch implements [blob.Blobs].
func (b *Blobs) Touch(ctx context.Context, key string) error {
	path, err := b.path(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return finding(key, b.shared(func() error { return touch(path) }))
}

// Sign implements [blob.Blobs]: files have no address.
func (b *Blobs) Sign(context.Context, string, blob.Info) (*http.Request, error) {
	return nil, blob.ErrNoURL
}

// refresh makes the content in path young, if it is here.
func (b *Blobs) refresh(path string, size int64) (known bool, err error) {
	err = b.shared(func() error {
		fi, err := os.Lstat(path)
		if err != nil {
			return ignoreGone(err)
		}
		known = true
		if fi.Size() != size {
			return fmt.Errorf("%w: not %d bytes", blob.ErrMismatch, size)
		}
		return touch(path)
	})
	if known && err == nil {
		err = syncDir(filepath.Dir(path)) // whoever put it here may not have come to it yet
	}
	return known, err
}

// write keeps src, once it is proven to be what was announced, in a synced
// file in tmp.
func (b *Blobs) write(ctx context.Context, src io.Reader, size int64, sum promise.Hash) (path string, err error) {
	f, err := os.CreateTemp(b.tmp, "")
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	var dst io.Writer = f
	var digest hash.Hash
	if !sum.IsZero() {
		digest = sha256.New()
		dst = io.MultiWriter(f, digest)
	}
	n, err := io.Copy(dst, &io.LimitedReader{R: reader{ctx, src}, N: size + 1})
	if err != nil {
		return "", err
	}
	if n != size {
		return "", fmt.Errorf("%w: not %d bytes", blob.ErrMismatch, size)
	}
	if digest != nil && promise.Hash(digest.Sum(nil)) != sum {
		return "", fmt.Errorf("%w: not of SHA-256 %s", blob.ErrMismatch, sum)
	}
	if err := touch(f.Name()); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// place moves a written file to its path, making the directories that are
// missing. It returns the highest directory that must be synced for the file
// to be durable: the one in which it made another, else the file's own.
func (b *Blobs) place(tmp, path string) (top string, err error) {
	dir := filepath.Dir(path)
	top = dir
	err = b.shared(func() error {
		for range 100 {
			err := os.Rename(tmp, path)
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			// The directory is not there yet, or a Collect has just removed it.
			if d := b.existing(dir); len(d) < len(top) {
				top = d
			}
			if err := os.MkdirAll(dir, 0o700); ignoreGone(err) != nil {
				return err
			}
		}
		return fmt.Errorf("%s is removed again and again", dir)
	})
	return top, err
}

// existing returns the deepest directory on the way to dir that exists.
func (b *Blobs) existing(dir string) string {
	for dir != b.root {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func (b *Blobs) path(key string) (string, error) {
	rel, err := keyPath(key)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.root, rel), nil
}

// reader ends with ctx.
type reader struct {
	ctx context.Context
	src io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.src.Read(p)
}

func info(key string, fi fs.FileInfo) blob.Info {
	return blob.Info{Key: key, Size: fi.Size(), SHA256: blob.ContentSum(key), Written: promise.TimeOf(fi.ModTime())}
}

func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// syncDirs makes the entries of dir and of its parents up to top durable.
func syncDirs(dir, top string) error {
	for ; len(dir) >= len(top); dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes the entries of dir durable. A directory that is gone has none.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	return f.Sync()
}

// keeping says that a Put of key failed.
func keeping(key string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("keeping %s: %w: %w", key, blob.ErrFull, err)
	}
	if err != nil {
		return fmt.Errorf("keeping %s: %w", key, err)
	}
	return nil
}

// finding says that what was asked of the blob at key failed.
func finding(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("finding %s: %w", key, err)
	}
	return nil
}
