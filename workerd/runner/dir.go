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
//	work/    the working directory, HOME and TMPDIR: at first the script and its inputs
//	output/  MODULATE_OUTPUT
//	socket   MODULATE_SOCKET, where there is one
//	script   between two jobs, the file that the last one's script was in
type jobDir string

// socketRoom is what the path of a job's socket adds to the directory in which
// its workplace is.
const socketRoom = len("/" + workplacePrefix + "0123456789abc/modulate-0123456789abc/" + socketName)

// tempDir is where things are made that parent names: "" is the system's
// directory for them or, where the sockets of scripts would have paths that are
// too long there, /tmp.
func tempDir(parent string) (string, error) {
	if parent == "" {
		parent = os.TempDir()
		if len(parent) > maxSocketPath-socketRoom {
			parent = "/tmp"
		}
	}
	return filepath.Abs(parent)
}

// nameJobDir names a directory that a job may have in parent.
func nameJobDir(parent string) jobDir {
	return jobDir(filepath.Join(parent, "modulate-"+strings.ToLower(rand.Text()[:13])))
}

func newJobDir(parent string) (jobDir, error) {
	parent, err := tempDir(parent)
	if err != nil {
		return "", fmt.Errorf("making the job's directory: %w", err)
	}
	d := nameJobDir(parent)
	for _, dir := range []string{string(d), d.work(), d.output()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", errors.Join(fmt.Errorf("making the job's directory: %w", err), d.remove())
		}
	}
	return d, nil
}

func (d jobDir) work() string   { return string(d) + "/work" }
func (d jobDir) output() string { return string(d) + "/output" }

// socketName is the name of the socket that a script reaches its worker by.
const socketName = "socket"

func (d jobDir) socket() string { return string(d) + "/" + socketName }

// scriptName is the name of a file that waits for the next script.
const scriptName = "script"

func (d jobDir) waiting() string { return string(d) + "/" + scriptName }

// lay puts the script and its inputs into the working directory.
func (d jobDir) lay(ctx context.Context, job Job) error {
	return layOut(ctx, job, d.create)
}

// create makes a file in the working directory.
func (d jobDir) create(name string, mode fs.FileMode) (io.WriteCloser, error) {
	return os.OpenFile(filepath.Join(d.work(), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
}

// A creator makes a new file in the working directory.
type creator func(name string, mode fs.FileMode) (io.WriteCloser, error)

// layOut makes the script and its inputs.
func layOut(ctx context.Context, job Job, create creator) error {
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
		if err := create.write(ctx, f, mode); err != nil {
			return fmt.Errorf("laying out %s %q: %w", what, f.Name, err)
		}
		mode = 0o600
	}
	return nil
}

// write copies f into the working directory.
func (create creator) write(ctx context.Context, f File, mode fs.FileMode) (err error) {
	src, err := f.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := create(f.Name, mode)
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
func (d jobDir) collect(ctx context.Context, f func(context.Context, *os.Root) error) error {
	return collect(ctx, d.output(), f)
}

func collect(ctx context.Context, dir string, f func(context.Context, *os.Root) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("collecting the output: panic: %v\n%s", r, debug.Stack())
		}
	}()
	fi, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Mkdir(dir, 0o700) // the script removed it: nothing was left
	case err == nil && !fi.IsDir():
		err = errors.New("MODULATE_OUTPUT is no longer a directory")
	case err == nil && fi.Mode().Perm() != 0o700:
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	defer root.Close()
	if err := f(ctx, root); err != nil {
		return fmt.Errorf("collecting the output: %w", err)
	}
	return nil
}
