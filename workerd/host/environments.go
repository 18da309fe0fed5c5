package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"modulate/workerd/sandbox"
	"modulate/workerd/uv"
)

// UV is machine.toml's words about the environments of scripts that name their
// dependencies.
type UV struct {
	Path  string `toml:"path"`  // of uv; "": as on PATH
	Cache string `toml:"cache"` // its directory; "": /var/cache/modulate/uv for root, else modulate/uv in the user's cache
	Size  Size   `toml:"size"`  // it may have; 0: uv.DefaultMost
}

func (u UV) check() error {
	for name, path := range map[string]string{"path": u.Path, "cache": u.Cache} {
		if path != "" && !filepath.IsAbs(path) {
			return errors.New("uv." + name + " is no absolute path: " + path)
		}
	}
	return shown(u.Cache)
}

// shown refuses a cache that no sandbox could show.
func shown(cache string) error {
	if own := sandbox.Hides(cache); own != "" {
		return fmt.Errorf("uv.cache %s lies below %s, of which each sandbox has its own", cache, own)
	}
	return nil
}

// dir is the cache's directory; an error means that there is no home to have
// one in.
func (u UV) dir() (string, error) {
	if u.Cache != "" {
		return u.Cache, nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/modulate/uv", nil
	}
	own, err := os.UserCacheDir()
	return filepath.Join(own, "modulate", "uv"), err
}

// environments opens the cache. Where machine.toml says nothing of it and it
// cannot be had, it is nil. Interpreters are those of python's directory and of
// the system.
func (u UV) environments(python string, level sandbox.Level, log *slog.Logger) (cache *uv.Cache, err error) {
	dir, err := u.dir()
	if err == nil && level != sandbox.None {
		err = shown(dir)
	}
	if err == nil {
		cache, err = uv.Open(uv.Config{Dir: dir, Path: u.Path, Python: python, Most: int64(u.Size), Log: log})
	}
	if err == nil || u != (UV{}) {
		return cache, err
	}
	if !errors.Is(err, uv.ErrNotInstalled) {
		log.Warn("there is no runtime uv here", "error", err)
	}
	return nil, nil
}
