package uv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeUV is a uv that makes environments whose python is a shell script, and
// counts its runs in DIR/runs.
const fakeUV = `#!/bin/sh
echo "$*" >>"$(dirname "$0")/runs"
[ "$1 $2 $4" = "sync --script --active" ] || exit 2
case "$(cat "$3")" in
*no-such*) echo 'error: No solution found when resolving dependencies'; echo '  cause: Because no-such was not found'; exit 1 ;;
*offline*) echo 'error: Request failed after 3 retries in 7.9s'; echo '  cause: Failed to fetch: http://index/'; exit 2 ;;
*slow*) exec sleep 600 ;;
esac
mkdir -p "$VIRTUAL_ENV/bin" "$UV_CACHE_DIR"
head -c 100000 /dev/zero >"$VIRTUAL_ENV/package"
ln "$VIRTUAL_ENV/package" "$UV_CACHE_DIR/$(basename "$(dirname "$3")")"
printf '#!/bin/sh\necho ran\n' >"$VIRTUAL_ENV/bin/python"
chmod +x "$VIRTUAL_ENV/bin/python"
`

// open opens a cache over the fake, in dir.
func open(t *testing.T, dir string, most int64) *Cache {
	t.Helper()
	path := filepath.Join(dir, "uv")
	if err := os.WriteFile(path, []byte(fakeUV), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{Dir: filepath.Join(dir, "cache"), Path: path, Most: most})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runs is how often uv has run.
func runs(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "runs"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

func needs(dependency string) *strings.Reader {
	return strings.NewReader("# /// script\n# dependencies = ['" + dependency + "']\n# ///\n")
}

// However many ask, in however many processes, uv runs once for each block.
func TestOncePerBlock(t *testing.T) {
	dir := t.TempDir()
	first, second := open(t, dir, 0), open(t, dir, 0)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			c := []*Cache{first, second}[n%2]
			command, done, err := c.Prepare(t.Context(), needs(fmt.Sprint("package-", n/10)))
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			if out, err := exec.Command(command[0]).Output(); err != nil || string(out) != "ran\n" {
				t.Errorf("%q: %q, %v", command, out, err)
			}
		})
	}
	all.Wait()
	if n := runs(t, dir); n != 2 {
		t.Errorf("uv ran %d times for two blocks", n)
	}
}

func TestWhatUVRefuses(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 0)
	var refused *Refused
	if _, _, err := c.Prepare(t.Context(), needs("no-such")); !errors.As(err, &refused) || !strings.Contains(err.Error(), "no-such was not found") {
		t.Errorf("a package that is not there: %v, want the script's doing", err)
	}
	if _, _, err := c.Prepare(t.Context(), needs("a @ http://b")); !errors.As(err, &refused) {
		t.Errorf("an address: %v, want the script's doing", err)
	}
	_, _, err := c.Prepare(t.Context(), needs("offline"))
	if err == nil || errors.As(err, &refused) {
		t.Fatalf("no way to the index: %v, want this host's doing", err)
	}
	for _, part := range []string{"outside the sandbox", "Failed to fetch: http://index/", "UV_DEFAULT_INDEX", "--runtime python"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := c.Prepare(ctx, needs("slow")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "cache", "envs"))
	if err != nil || len(left) > 0 || len(c.used) > 0 {
		t.Errorf("left %v, %v, in use %v", left, err, c.used)
	}
}

// A process that was killed while it made an environment leaves one that
// nobody takes for whole.
func TestHalfAnEnvironment(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 0)
	m, err := read([]byte("# /// script\n# dependencies = ['a']\n# ///\n"))
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "cache", "envs", m.key(), "env", "bin")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	command, done, err := c.Prepare(t.Context(), needs("a"))
	if err != nil || runs(t, dir) != 1 {
		t.Fatalf("%d runs, %v", runs(t, dir), err)
	}
	defer done()
	if out, err := exec.Command(command[0]).Output(); err != nil || string(out) != "ran\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 350_000) // three environments and some
	long := time.Now().Add(-2 * minAge)
	prepare := func(name string) (key string, done func()) {
		t.Helper()
		command, done, err := c.Prepare(t.Context(), needs(name))
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(command[0])))), done
	}
	age := func(key string) {
		t.Helper()
		if err := os.Chtimes(env{c, key}.ready(), long, long); err != nil {
			t.Fatal(err)
		}
	}
	is := func(key string) bool {
		_, err := os.Stat(env{c, key}.ready())
		return err == nil
	}
	busy, release := prepare("busy")
	idle, done := prepare("idle")
	done()
	young, done := prepare("young")
	done()
	age(busy)
	age(idle)
	prepare("last")
	if !is(busy) || is(idle) || !is(young) {
		t.Errorf("busy is there %v, idle %v, young %v; want only idle gone", is(busy), is(idle), is(young))
	}
	if size := diskUse(c.Dir()); size > 350_000 {
		t.Errorf("%d bytes are used", size)
	}
	release()
	old := time.Now().Add(-maxAge - time.Hour)
	if err := os.Chtimes(env{c, busy}.ready(), old, old); err != nil {
		t.Fatal(err)
	}
	if c.evict(); is(busy) {
		t.Error("one that nobody has used for a month is kept")
	}
}

func TestWithoutUV(t *testing.T) {
	if _, err := Open(Config{Dir: t.TempDir(), Path: "no-uv-anywhere"}); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("%v, want ErrNotInstalled", err)
	}
}

// TestRealUV installs a package from the index that this machine is configured
// for.
func TestRealUV(t *testing.T) {
	if testing.Short() {
		t.Skip("a package index is asked; not for short tests")
	}
	path, err := exec.LookPath("../../.emulators/uv/bin/uv")
	if err != nil {
		path, err = exec.LookPath("uv")
	}
	if err != nil {
		if os.Getenv("CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("uv is missing: make emulators installs it")
	}
	c, err := Open(Config{Dir: t.TempDir(), Path: path})
	if err != nil {
		t.Fatal(err)
	}
	command, done, err := c.Prepare(t.Context(), needs("six==1.16.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	cmd := exec.Command(command[0], append(command[1:], "-c", "import six; print(six.__version__)")...)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1.16.0\n" {
		t.Errorf("%q, %v", out, err)
	}
	var refused *Refused
	if _, _, err := c.Prepare(t.Context(), needs("six==99")); !errors.As(err, &refused) {
		t.Errorf("a version that is not there: %v, want the script's doing", err)
	}
	if _, _, err := c.Prepare(t.Context(), needs("docopt==0.6.2")); !errors.As(err, &refused) || !strings.Contains(err.Error(), "building from source is disabled") {
		t.Errorf("a package without a wheel: %v, want it refused", err)
	}
}
