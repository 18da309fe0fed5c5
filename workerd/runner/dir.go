package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A jobDir is the directory of one job, by its absolute path. Its name is like
// no other's, ever (65 random bits), and short: sockets in it have 104 bytes.
//
//	work/    the working directory: the script and its inputs
//	output/  MODULATE_OUTPUT
//	tmp/     HOME and TMPDIR
type jobDir string

func newJobDir(parent string) (jobDir, error) {
	parent, err := tempDir(parent)
	if err != nil {
		return "", fmt.Errorf("making the job's directory: %w", err)
	}
	d := jobDir(filepath.Join(parent, "modulate-"+strings.ToLower(rand.Text()[:13])))
	for _, dir := range []string{string(d), d.work(), d.output(), d.tmp()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", errors.Join(fmt.Errorf("making the job's directory: %w", err), d.remove())
		}
	}
	return d, nil
}

func (d jobDir) work() string   { return string(d) + "/work" }
func (d jobDir) output() string { return string(d) + "/output" }
func (d jobDir) tmp() string    { return string(d) + "/tmp" }

// lay puts the script and its inputs into the working directory.
func (d jobDir) lay(ctx context.Context, job Job) error {
	mode := fs.FileMode(0o600)
	if len(job.Command) == 0 {
		mode = 0o700
	}
	names := map[string]bool{}
	for i, f := range append([]File{{job.Name, job.Script}}, job.Files...) {
		what := "input file"
		if i == 0 {
			what = "script"
		}
		if err := checkName(f.Name); err != nil {
			return fmt.Errorf("%s %q: %w", what, f.Name, err)
		}
		if names[f.Name] {
			return fmt.Errorf("%s %q: the script or another file has that name", what, f.Name)
		}
		names[f.Name] = true
		if err := d.write(ctx, f, mode); err != nil {
			return fmt.Errorf("laying out %s %q: %w", what, f.Name, err)
		}
		mode = 0o600
	}
	return nil
}

// write copies f into the working directory.
func (d jobDir) write(ctx context.Context, f File, mode fs.FileMode) (err error) {
	src, err := f.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(filepath.Join(d.work(), f.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = io.Copy(dst, contextReader{ctx, src})
	return err
}

// contextReader ends with ctx.
type contextReader struct {
	ctx context.Context
	src io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.src.Read(p)
}

// checkName refuses what is not a plain name of one file.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return errors.New("not a file's name")
	case len(name) > 255:
		return fmt.Errorf("a name of %d bytes, 255 at most", len(name))
	case strings.ContainsRune(name, '/'):
		return errors.New("a name with a slash in it")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("a name with characters that cannot be shown")
	}
	return nil
}

// collect lets f read the output directory, whatever the script made of it.
func (d jobDir) collect(ctx context.Context, f func(context.Context, *os.Root) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("collecting the output: panic: %v\n%s", r, debug.Stack())
		}
	}()
	fi, err := os.Lstat(d.output())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Mkdir(d.output(), 0o700) // the script removed it: nothing was left
	case err == nil && !fi.IsDir():
		err = errors.New("MODULATE_OUTPUT is no longer a directory")
	case err == nil && fi.Mode().Perm() != 0o700:
		err = os.Chmod(d.output(), 0o700)
	}
	if err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	root, err := os.OpenRoot(d.output())
	if err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	defer root.Close()
	if err := f(ctx, root); err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	return nil
}

// remove removes the directory, also where the script took rights away.
func (d jobDir) remove() error {
	first := os.RemoveAll(string(d))
	if first == nil {
		return nil
	}
	fi, err := os.Lstat(string(d))
	if err != nil || !fi.IsDir() {
		return first
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return err
	}
	defer root.Close()
	nothing := func(string, fs.DirEntry) error { return nil }
	if err := walk(context.Background(), root, nothing); err != nil {
		return err
	}
	return os.RemoveAll(string(d))
}

// walk visits everything below root, in no order. It follows no symbolic link,
// and gives itself the right to read the directories that it meets.
func walk(ctx context.Context, root *os.Root, visit func(name string, e fs.DirEntry) error) error {
	dirs := []string{"."}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		f, err := openDir(root, dir)
		if err != nil {
			return err
		}
		for err == nil {
			var entries []fs.DirEntry
			entries, err = f.ReadDir(256)
			for _, e := range entries {
				name := e.Name()
				if dir != "." {
					name = dir + "/" + name
				}
				if e.IsDir() {
					dirs = append(dirs, name)
				} else if err := visit(name, e); err != nil {
					f.Close()
					return err
				}
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
		}
		f.Close()
		if !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func openDir(root *os.Root, dir string) (*os.File, error) {
	if dir != "." { // the caller has seen to the root
		fi, err := root.Lstat(dir)
		if err != nil {
			return nil, err
		}
		if fi.Mode().Perm()&0o700 != 0o700 {
			if err := root.Chmod(dir, 0o700); err != nil {
				return nil, err
			}
		}
	}
	return root.Open(dir)
}
