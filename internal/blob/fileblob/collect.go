package fileblob

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// staleTemp is how long ago a file in tmp was last written when its writer is
// taken for dead.
const staleTemp = time.Hour

// List implements [blob.Blobs]. It reads only directories whose keys may start
// with prefix: one, when prefix ends in a slash and nothing is below.
func (b *Blobs) List(ctx context.Context, prefix string) ([]blob.Info, error) {
	base := prefix[:strings.LastIndexByte(prefix, '/')+1]
	var found []blob.Info
	err := b.walk(ctx, filepath.Join(b.root, dirPath(base)), base, visitor{
		enter: func(key string) bool { return strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key) },
		file: func(_, key string, fi fs.FileInfo) error {
			if strings.HasPrefix(key, prefix) {
				found = append(found, info(key, fi))
			}
			return nil
		},
		leave: func(string) {},
	})
	slices.SortFunc(found, func(a, b blob.Info) int { return cmp.Compare(a.Key, b.Key) })
	return found, err
}

// Collect implements [blob.Blobs]. Directories left empty and files that a
// dead writer left in tmp go too.
func (b *Blobs) Collect(ctx context.Context, before promise.Time) (int, error) {
	n := 0
	err := b.walk(ctx, b.root, "", visitor{
		enter: func(string) bool { return true },
		file: func(path, _ string, fi fs.FileInfo) error {
			if promise.TimeOf(fi.ModTime()) >= before {
				return nil
			}
			removed, err := b.removeOld(path, before)
			if removed {
				n++
			}
			return err
		},
		leave: func(dir string) { os.Remove(dir) }, // refused unless it is empty
	})
	return n, errors.Join(err, b.collectTemp())
}

// removeOld removes a blob unless it was made young meanwhile.
func (b *Blobs) removeOld(path string, before promise.Time) (removed bool, err error) {
	err = b.locked(syscall.LOCK_EX, func() error {
		fi, err := os.Lstat(path)
		if err == nil && promise.TimeOf(fi.ModTime()) < before {
			err = os.Remove(path)
			removed = err == nil
		}
		return ignoreGone(err)
	})
	return removed, err
}

func (b *Blobs) collectTemp() error {
	entries, err := os.ReadDir(b.tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || time.Since(fi.ModTime()) < staleTemp {
			continue // gone, or alive
		}
		if err := os.Remove(filepath.Join(b.tmp, e.Name())); ignoreGone(err) != nil {
			return err
		}
	}
	return nil
}

// A visitor is told about the blobs below a directory.
type visitor struct {
	enter func(key string) bool // whether to look into the directory of keys that start with key
	file  func(path, key string, fi fs.FileInfo) error
	leave func(dir string)
}

// walk visits the files below dir, whose keys start with base. What is not
// ours, and what disappears meanwhile, it skips.
func (b *Blobs) walk(ctx context.Context, dir, base string, v visitor) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		n, ok := parseName(e.Name())
		if !ok || n.file == e.IsDir() {
			continue
		}
		path, key := filepath.Join(dir, e.Name()), base+n.text
		if n.file {
			if err := b.visit(path, key, v); err != nil {
				return err
			}
			continue
		}
		if n.whole {
			key += "/"
		}
		if !v.enter(key) {
			continue
		}
		if err := b.walk(ctx, path, key, v); err != nil {
			return err
		}
		v.leave(path)
	}
	return nil
}

func (b *Blobs) visit(path, key string, v visitor) error {
	if own, err := b.path(key); err != nil || own != path {
		return nil // not ours
	}
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return ignoreGone(err)
	}
	return v.file(path, key, fi)
}

// shared runs f while nothing is removed.
func (b *Blobs) shared(f func() error) error { return b.locked(syscall.LOCK_SH, f) }

// locked runs f under the lock of all processes on this directory.
func (b *Blobs) locked(how int, f func() error) error {
	l, err := os.Open(b.lock)
	if err != nil {
		return err
	}
	defer l.Close() // unlocks
	for {
		if err = syscall.Flock(int(l.Fd()), how); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return err
	}
	return f()
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
