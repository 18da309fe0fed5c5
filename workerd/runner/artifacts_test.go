package runner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"modulate/workerd/runner"
)

// opened returns a directory and its root.
func opened(t *testing.T) (string, *os.Root) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func write(t *testing.T, dir, name, body string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// all reads every artifact, each as "name=body".
func all(root *os.Root) (found []string, skipped []runner.Skipped, err error) {
	skipped, err = runner.Artifacts(context.Background(), root, func(name string, size int64, open func() (io.ReadCloser, error)) error {
		src, err := open()
		if err != nil {
			return err
		}
		defer src.Close()
		body, err := io.ReadAll(src)
		if int64(len(body)) != size {
			return errors.Join(err, fmt.Errorf("%s: %d bytes, said to be %d", name, len(body), size))
		}
		found = append(found, name+"="+string(body))
		return err
	})
	return found, skipped, err
}

func TestArtifacts(t *testing.T) {
	dir, root := opened(t)
	for _, name := range []string{"b", "a/b", "a.txt", "a/b.txt", "a0", "x/y/z", "ü", "a b", "result.json"} {
		write(t, dir, name, "body of "+name)
	}
	write(t, dir, "empty", "")
	if err := os.MkdirAll(filepath.Join(dir, "nothing/here"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := []string{"a b=body of a b", "a.txt=body of a.txt", "a/b=body of a/b", "a/b.txt=body of a/b.txt", "a0=body of a0", "b=body of b",
		"empty=", "result.json=body of result.json", "x/y/z=body of x/y/z", "ü=body of ü"}
	found, skipped, err := all(root)
	if !slices.Equal(found, want) || len(skipped) != 0 || err != nil {
		t.Errorf("found %q, skipped %v, %v; want %q", found, skipped, err, want)
	}
}

// TestPlanted plants everything that must not be followed or opened.
func TestPlanted(t *testing.T) {
	dir, root := opened(t)
	secret := t.TempDir()
	write(t, secret, "secret", "secret")
	write(t, dir, "good", "good")
	write(t, dir, "target", "t")
	for link, to := range map[string]string{
		"out": secret + "/secret", "dir": secret, "inside": "good", "loop": "loop", "up": "../../etc/passwd", "fd": "/proc/self/fd/0", "dangling": "nowhere",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(secret, "secret"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	write(t, dir, "new\nline", "x")
	write(t, dir, "esc\x1b[31m", "x")
	write(t, dir, "c1\u0085", "x")
	write(t, dir, "\xff", "x")
	write(t, dir, "bad\x01dir/file", "x")
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 4)
	write(t, dir, deep+strings.Repeat("f", 100), "x")
	write(t, dir, deep+strings.Repeat("e", 21)+"/file", "x")

	found, skipped, err := all(root)
	if want := []string{"good=good", "target=t"}; !slices.Equal(found, want) || err != nil {
		t.Errorf("found %q, %v; want %q", found, err, want)
	}
	var got []string
	for _, s := range skipped {
		got = append(got, fmt.Sprintf("%.20q: %s", s.Name, s.Why))
	}
	want := []string{
		`"bad\x01dir/file": a name with characters that cannot be shown`,
		`"c1\u0085": a name with characters that cannot be shown`,
		`"dangling": a symbolic link`,
		`"dddddddddddddddddddd": a directory nested too deep`,
		`"dddddddddddddddddddd": a name of 1104 bytes, 1024 at most`,
		`"dir": a symbolic link`,
		`"esc\x1b[31m": a name with characters that cannot be shown`,
		`"fd": a symbolic link`,
		`"fifo": not a regular file`,
		`"hard": a file with several names`,
		`"inside": a symbolic link`,
		`"loop": a symbolic link`,
		`"new\nline": a name with characters that cannot be shown`,
		`"out": a symbolic link`,
		`"sock": not a regular file`,
		`"up": a symbolic link`,
		`"\xff": a name with characters that cannot be shown`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("skipped\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestManyArtifacts(t *testing.T) {
	dir, root := opened(t)
	for i := range runner.MaxArtifacts {
		write(t, dir, fmt.Sprintf("%d/%d", i%7, i), "")
	}
	if found, _, err := all(root); len(found) != runner.MaxArtifacts || err != nil {
		t.Errorf("%d files, %v", len(found), err)
	}
	write(t, dir, "more", "")
	write(t, dir, "and more", "")
	found, _, err := all(root)
	if len(found) != 0 || err == nil || !strings.Contains(err.Error(), "1002 files, 1000 at most") {
		t.Errorf("%d files, %v", len(found), err)
	}
}

func TestManySkipped(t *testing.T) {
	dir, root := opened(t)
	for i := range 150 {
		if err := os.Symlink("x", filepath.Join(dir, fmt.Sprintf("%03d", i))); err != nil {
			t.Fatal(err)
		}
	}
	_, skipped, err := all(root)
	if len(skipped) != 101 || skipped[100].Name != "50 more" || err != nil {
		t.Errorf("%d skipped, the last is %v, %v", len(skipped), skipped[len(skipped)-1], err)
	}
}

// Rights that the script took away do not hide its files.
func TestClosedArtifacts(t *testing.T) {
	dir, root := opened(t)
	write(t, dir, "a/b/c", "body")
	write(t, dir, "top", "body")
	for _, name := range []string{"a/b/c", "a/b", "a", "top"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		loseRights(t)
		if found, skipped, err := all(root); !slices.Equal(found, []string{"a/b/c=body", "top=body"}) || len(skipped) != 0 || err != nil {
			t.Errorf("found %q, skipped %v, %v", found, skipped, err)
		}
	}()
	<-done
}

// A file that is not the one that was found is not opened.
func TestSwappedArtifact(t *testing.T) {
	dir, root := opened(t)
	write(t, dir, "a", "a")
	write(t, dir, "b", "b")
	for name, swap := range map[string]func(path string) error{
		"a file": func(path string) error { return os.WriteFile(path, []byte("b"), 0o600) },
		"a link": func(path string) error { return os.Symlink("b", path) },
		"a fifo": func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		_, err := runner.Artifacts(t.Context(), root, func(name string, _ int64, open func() (io.ReadCloser, error)) error {
			if name != "a" {
				return nil
			}
			path := filepath.Join(dir, "a")
			if err := errors.Join(os.Rename(path, path+"2"), swap(path)); err != nil {
				return err
			}
			defer os.Rename(path+"2", path)
			src, err := open()
			if err == nil {
				src.Close()
				t.Errorf("swapped for %s: it was opened", name)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArtifactsEnd(t *testing.T) {
	dir, root := opened(t)
	write(t, dir, "a", "")
	write(t, dir, "b", "")
	full := errors.New("full")
	calls := 0
	_, err := runner.Artifacts(t.Context(), root, func(string, int64, func() (io.ReadCloser, error)) error { calls++; return full })
	if calls != 1 || !errors.Is(err, full) {
		t.Errorf("%d calls, %v", calls, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runner.Artifacts(ctx, root, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
