package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

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
	return nil
}

// environments opens the cache. Where machine.toml says nothing of it and it
// cannot be had, it is nil. Interpreters are those of python's directory and of
// the system.
func (u UV) environments(python string, log *slog.Logger) (*uv.Cache, error) {
	dir := u.Cache
	if dir == "" {
		dir = "/var/cache/modulate/uv"
		if os.Geteuid() != 0 {
			own, err := os.UserCacheDir()
			if err != nil {
				return nil, nil // without a home there is no cache, and without one no environments
			}
			dir = filepath.Join(own, "modulate", "uv")
		}
	}
	cache, err := uv.Open(uv.Config{Dir: dir, Path: u.Path, Python: python, Most: int64(u.Size), Log: log})
	if err == nil || u != (UV{}) {
		return cache, err
	}
	if !errors.Is(err, uv.ErrNotInstalled) {
		log.Warn("there is no runtime uv here", "error", err)
	}
	return nil, nil
}
