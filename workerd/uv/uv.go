// Package uv prepares the environments of Python scripts that name their
// dependencies in their head (PEP 723), as uv run --script does, for scripts
// that have no network: uv installs them outside the sandbox, into a cache that
// every sandbox shows, and no script can write. An environment is made once for
// each block, however many scripts ask for it.
//
//	DIR/envs/KEY/script.py    the block, in a form in which equal ones are equal; KEY is its hash
//	DIR/envs/KEY/env/         the virtual environment
//	DIR/envs/KEY/ready        it is whole; touched when a script starts in it
//	DIR/wheels/ DIR/python/   uv's own: packages, and interpreters that it had to fetch
//	DIR/lock                  held by who changes any of it
//
// What is installed is wheels of the machine's own indexes, and nothing is
// built: building runs a package's code, which belongs into a sandbox. The
// indexes are those that the daemon's environment and /etc/uv name.
package uv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"modulate/internal/lock"
)

// Runtime is the name of the runtime of scripts that run in an environment.
const Runtime = "uv"

// ErrNotInstalled: this machine has no uv.
var ErrNotInstalled = errors.New("uv is not installed on this machine")

// Config says where a Cache is. Dir is required.
type Config struct {
	Dir    string       // of the cache; made if it is not there
	Path   string       // of uv; "": as on PATH
	Python string       // of the interpreter to be preferred; "": as uv finds it in the system's directories
	Most   int64        // bytes; DefaultMost when 0
	Log    *slog.Logger // nil: discarded
}

// DefaultMost is the size beyond which a Cache drops what was used least
// recently. PyTorch with its libraries is 6 GiB.
const DefaultMost = 30 << 30

// A Cache is the environments of a machine. Its methods may be called from any
// goroutine, and several processes may have the same.
type Cache struct {
	cfg Config

	mu   sync.Mutex
	used map[string]int // environments in use, by key

	turn chan struct{} // holds one while this process changes the cache
}

// Find returns the file of uv: that at path, or where path is empty the one
// that PATH leads to. ErrNotInstalled.
func Find(path string) (string, error) {
	found, err := exec.LookPath(cmp.Or(path, "uv"))
	if err != nil {
		return "", fmt.Errorf("%w: install it (https://docs.astral.sh/uv), as by pip install uv", ErrNotInstalled)
	}
	return filepath.Abs(found)
}

// Open returns the cache in cfg.Dir. ErrNotInstalled.
func Open(cfg Config) (*Cache, error) {
	path, err := Find(cfg.Path)
	if err != nil {
		return nil, err
	}
	cfg.Path, cfg.Most, cfg.Log = path, cmp.Or(cfg.Most, DefaultMost), cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "envs"), 0o755); err != nil {
		return nil, fmt.Errorf("making the cache of environments: %w", err)
	}
	return &Cache{cfg: cfg, used: map[string]int{}, turn: make(chan struct{}, 1)}, nil
}

// Dir is what sandboxes show.
func (c *Cache) Dir() string { return c.cfg.Dir }

// A Refused is a script whose dependencies cannot be had, by its own doing:
// another host would say the same.
type Refused struct{ Text string }

func (r *Refused) Error() string { return r.Text }

// CodeRefused is the exit code of such a script, as uv run has it.
const CodeRefused = 1

// Prepare makes the environment of a script, if it is not there yet, and
// returns the command that runs scripts in it; what it can import is its
// dependencies, and files beside it. The environment stays until done is
// called. *Refused; other errors are this host's.
func (c *Cache) Prepare(ctx context.Context, script io.Reader) (command []string, done func(), err error) {
	text, err := io.ReadAll(script)
	if err != nil {
		return nil, nil, err
	}
	m, err := read(text)
	if err != nil {
		return nil, nil, &Refused{err.Error()}
	}
	e := env{c, m.key()}
	c.use(e.key, 1)
	if !e.start() {
		if err := e.make(ctx, m); err != nil {
			c.use(e.key, -1)
			return nil, nil, err
		}
	}
	return []string{e.python(), "-s", "-E"}, sync.OnceFunc(func() { c.use(e.key, -1) }), nil
}

func (c *Cache) use(key string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used[key] += n; c.used[key] == 0 {
		delete(c.used, key)
	}
}

// env is one environment.
type env struct {
	c   *Cache
	key string
}

func (e env) dir() string    { return filepath.Join(e.c.cfg.Dir, "envs", e.key) }
func (e env) python() string { return filepath.Join(e.dir(), "env", "bin", "python") }
func (e env) ready() string  { return filepath.Join(e.dir(), "ready") }

// start reports whether the environment is whole, and notes that it is used.
func (e env) start() bool {
	now := time.Now()
	return os.Chtimes(e.ready(), now, now) == nil
}

// make makes the environment, unless somebody else does so meanwhile.
func (e env) make(ctx context.Context, m metadata) error {
	unlock, err := e.c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if e.start() {
		return nil
	}
	if err := os.RemoveAll(e.dir()); err != nil { // what was begun and broken off
		return err
	}
	if err := os.Mkdir(e.dir(), 0o755); err != nil {
		return fmt.Errorf("making an environment: %w", err)
	}
	begun := time.Now()
	if err := e.sync(ctx, m); err != nil {
		return errors.Join(err, os.RemoveAll(e.dir()))
	}
	if err := os.WriteFile(e.ready(), nil, 0o644); err != nil {
		return fmt.Errorf("making an environment: %w", err)
	}
	e.c.cfg.Log.Info("an environment is made", "key", e.key, "dependencies", m.Dependencies, "after_ms", time.Since(begun).Milliseconds())
	e.c.evict()
	return nil
}

// syncTime is how long uv may take: PyTorch is 6 GiB, and others wait.
const syncTime = 30 * time.Minute

// sync has uv install everything.
func (e env) sync(ctx context.Context, m metadata) error {
	script := filepath.Join(e.dir(), "script.py")
	if err := os.WriteFile(script, []byte(m.text()), 0o644); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	cmd := exec.CommandContext(bounded, e.c.cfg.Path, "sync", "--script", script, "--active", "--no-build", "--no-progress", "--color", "never")
	cmd.Dir = e.dir() // no project's configuration is above it
	cmd.WaitDelay = time.Second
	search := []string{"/usr/local/bin", "/usr/bin", "/bin"} // the interpreters that sandboxes show
	if e.c.cfg.Python != "" {
		search = append([]string{filepath.Dir(e.c.cfg.Python)}, search...)
	}
	cmd.Env = append(cmd.Environ(), "PATH="+strings.Join(search, ":"), "VIRTUAL_ENV="+filepath.Join(e.dir(), "env"),
		"UV_CACHE_DIR="+filepath.Join(e.c.cfg.Dir, "wheels"), "UV_PYTHON_INSTALL_DIR="+filepath.Join(e.c.cfg.Dir, "python"))
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case bounded.Err() != nil:
		err = fmt.Errorf("it was stopped after %v", syncTime)
	case cmd.ProcessState != nil && cmd.ProcessState.Exited() && !ours.Match(out):
		return &Refused{"uv cannot install what it names:\n" + strings.TrimSpace(string(out))}
	}
	return fmt.Errorf("preparing its dependencies on this machine, outside the sandbox: uv: %w: %s; "+
		"is there a way to a package index from here (UV_DEFAULT_INDEX names another than PyPI), and room in %s? "+
		"A script for which no package is fetched runs by --runtime python or python-env", err, causes(out), e.c.cfg.Dir)
}

// ours is what uv says when it was this machine that failed it.
var ours = regexp.MustCompile(`(?i)error sending request|request failed after|failed to (fetch|download)|network (was|is) disabled|no space left|permission denied|read-only file system`)

// causes is what uv said, in one line.
func causes(out []byte) string {
	var said []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "error:") || strings.HasPrefix(line, "cause:") {
			said = append(said, strings.TrimSpace(line[len("error:"):]))
		}
	}
	return strings.Join(said, ": ")
}

// lockPause is how often a lock that another process has is tried again.
const lockPause = 100 * time.Millisecond

// lock has the cache to itself, among all processes, until unlock.
func (c *Cache) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	tick := time.NewTicker(lockPause)
	defer tick.Stop()
	for {
		f, err := lock.Take(filepath.Join(c.cfg.Dir, "lock"))
		if err == nil {
			return func() { f.Close(); <-c.turn }, nil
		}
		if !errors.Is(err, lock.ErrHeld) {
			<-c.turn
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			<-c.turn
			return nil, context.Cause(ctx)
		}
	}
}
