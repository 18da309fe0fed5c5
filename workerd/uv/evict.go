package uv

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// When environments go.
const (
	maxAge = 30 * 24 * time.Hour // unused; blobs of scripts are kept for longer
	minAge = 24 * time.Hour      // since a script of another process started in it, which may still run
)

// evict drops environments that nobody has used for long, and while the cache is
// larger than it may be those that were used least recently. uv's own packages
// go first: they are links to the same files, and can be fetched again. The
// cache is locked.
func (c *Cache) evict() {
	old, err := c.byUse()
	for _, e := range old {
		if err == nil && time.Since(e.last) > maxAge && !c.inUse(e.key) {
			err = os.RemoveAll(e.dir())
		}
	}
	size := diskUse(c.cfg.Dir)
	if size > c.cfg.Most && err == nil {
		err = os.RemoveAll(filepath.Join(c.cfg.Dir, "wheels"))
		size = diskUse(c.cfg.Dir)
	}
	for _, e := range old {
		if size <= c.cfg.Most || err != nil {
			break
		}
		if time.Since(e.last) > minAge && !c.inUse(e.key) {
			err = os.RemoveAll(e.dir())
			size = diskUse(c.cfg.Dir)
		}
	}
	if err != nil || size > c.cfg.Most {
		c.cfg.Log.Warn("the cache of environments is larger than it may be", "bytes", size, "most_bytes", c.cfg.Most, "error", err)
	}
}

func (c *Cache) inUse(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used[key] > 0
}

// usage is an environment and when it was last used.
type usage struct {
	env
	last time.Time // zero: it is not whole
}

// byUse are all environments, the longest unused first.
func (c *Cache) byUse() (all []usage, err error) {
	entries, err := os.ReadDir(filepath.Join(c.cfg.Dir, "envs"))
	for _, entry := range entries {
		e := usage{env: env{c, entry.Name()}}
		if info, err := os.Stat(e.ready()); err == nil {
			e.last = info.ModTime()
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b usage) int { return a.last.Compare(b.last) })
	return all, err
}

// diskUse is how many bytes the files below dir are, each once however many
// links there are to it.
func diskUse(dir string) (total int64) {
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be read is not counted
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) || err != nil {
			return nil
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
			if seen[s.Ino] {
				return nil
			}
			seen[s.Ino] = true
		}
		total += info.Size()
		return nil
	})
	return total
}
