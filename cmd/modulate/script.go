package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/workerd/uv"
)

// A content is bytes that a submission names by their hash.
type content struct {
	sum  promise.Hash
	size int64
	open func() (io.ReadCloser, error)
}

// A script is what is to run.
type script struct {
	name string // of its file
	text []byte
}

// readScript reads the script at path; "-" is stdin.
func readScript(path string, stdin io.Reader) (script, error) {
	if path == "-" {
		text, err := readAtMost(stdin, api.MaxScript)
		if err != nil {
			return script{}, badInput("script on standard input: %w", err)
		}
		return script{"script", text}, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return script{}, badInput("script %q: there is no such file", path).
			hint("name a file, or - to read the script from standard input")
	}
	if err != nil {
		return script{}, badInput("script %q: %w", path, reason(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return script{}, badInput("script %q is a directory", path).hint("name one file; lay others beside it with --file")
	}
	text, err := readAtMost(f, api.MaxScript)
	if err != nil {
		return script{}, badInput("script %q: %w", path, reason(err))
	}
	return script{filepath.Base(path), text}, nil
}

// readAtMost reads what is not empty and within the limit.
func readAtMost(src io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(src, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("it cannot be read: %w", reason(err))
	case len(text) == 0:
		return nil, errors.New("it is empty")
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("it is larger than the limit of %s", bytesText(limit))
	}
	return text, nil
}

// reason is err without the operation and the path, which the message names.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// runtimes are those that every worker has, and uv, which it has where uv is
// installed; a machine.toml may add others.
var runtimes = []string{"python", "python-env", uv.Runtime, "bash", "node", "binary"}

// byExtension and byInterpreter tell a script's runtime where --runtime does
// not.
var (
	byExtension = map[string]string{".py": "python", ".sh": "bash", ".bash": "bash", ".js": "node", ".mjs": "node", ".cjs": "node"}
	// The digits and dots of a version are cut off first.
	byInterpreter = map[string]string{"python": "python", "uv": uv.Runtime, "sh": "bash", "bash": "bash", "dash": "bash", "node": "node", "nodejs": "node"}
)

// runtime tells what runs the script by its name, its first line, or, where
// stdin brings neither, as the API does: python. Python that names its
// dependencies is run with them.
func (s script) runtime(path string) (string, error) {
	name, err := s.language(path)
	if name == "python" && uv.HasBlock(s.text) {
		name = uv.Runtime
	}
	return name, err
}

func (s script) language(path string) (string, error) {
	if rt, ok := byExtension[strings.ToLower(filepath.Ext(s.name))]; ok && path != "-" {
		return rt, nil
	}
	if rt, ok := byInterpreter[s.interpreter()]; ok {
		return rt, nil
	}
	if bytes.HasPrefix(s.text, []byte("\x7fELF")) || bytes.HasPrefix(s.text, []byte("\xcf\xfa\xed\xfe")) {
		return "binary", nil
	}
	if path == "-" {
		return "python", nil
	}
	return "", badInput("script %q: neither its name nor its first line tells what runs it", path).
		hint("say --runtime %s", strings.Join(runtimes, "|"))
}

// interpreter returns the base name of what the #! line names, without a
// version; "" where there is none.
func (s script) interpreter() string {
	line, _, _ := bytes.Cut(s.text[:min(len(s.text), 256)], []byte("\n"))
	rest, ok := bytes.CutPrefix(line, []byte("#!"))
	if !ok {
		return ""
	}
	words := strings.Fields(string(rest))
	words = slices.DeleteFunc(words, func(w string) bool {
		return filepath.Base(w) == "env" || strings.HasPrefix(w, "-") || strings.Contains(w, "=")
	})
	if len(words) == 0 {
		return ""
	}
	return strings.TrimRight(filepath.Base(words[0]), "0123456789.")
}

// content is the script as a blob.
func (s script) content() content {
	return content{
		sum: promise.Hash(sha256.Sum256(s.text)), size: int64(len(s.text)),
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s.text)), nil },
	}
}

// An input is a file laid beside the script.
type input struct {
	name string
	content
}

// parseFiles reads what --file says: PATH, or NAME=PATH where no file has that
// whole name.
func parseFiles(settings []string) ([]input, error) {
	var files []input
	for _, s := range settings {
		name, path := filepath.Base(s), s
		if before, after, renamed := strings.Cut(s, "="); renamed && !exists(s) {
			name, path = before, after
		}
		if name == "" || path == "" {
			return nil, badInput("--file %q: want PATH or NAME=PATH", s)
		}
		if slices.ContainsFunc(files, func(f input) bool { return f.name == name }) {
			return nil, badInput("--file %q: another file is laid as %q already; want NAME=PATH", s, name)
		}
		c, err := fileContent(path)
		if err != nil {
			return nil, badInput("--file %q: %w", path, err)
		}
		files = append(files, input{name, c})
	}
	return files, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// fileContent hashes the file at path, which must not change until it is
// uploaded: the other end checks.
func fileContent(path string) (content, error) {
	f, err := os.Open(path)
	if err != nil {
		return content{}, reason(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return content{}, reason(err)
	case info.IsDir():
		return content{}, errors.New("it is a directory; want a file")
	case !info.Mode().IsRegular():
		return content{}, errors.New("it is not a regular file")
	}
	c, err := hashed(f)
	c.open = func() (io.ReadCloser, error) { return os.Open(path) }
	return c, err
}

// hashed reads src to its end for its hash and size.
func hashed(src io.Reader) (content, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(src, api.MaxBlob+1))
	if err != nil {
		return content{}, reason(err)
	}
	if n > api.MaxBlob {
		return content{}, fmt.Errorf("it is larger than the limit of %s", bytesText(api.MaxBlob))
	}
	return content{sum: promise.Hash(h.Sum(nil)), size: n}, nil
}

// stdinContent reads what --stdin names: a file, or "-" for our own, which is
// kept in an unlinked temporary file. Empty input is none.
func stdinContent(path string, stdin io.Reader) (content, error) {
	switch path {
	case "":
		return content{}, nil
	case "-":
		c, err := spooled(stdin)
		if err != nil {
			return content{}, badInput("--stdin -: %w", err)
		}
		return c, nil
	}
	c, err := fileContent(path)
	if err != nil {
		return content{}, badInput("--stdin %q: %w", path, err)
	}
	return c, nil
}

// spooled keeps src in a temporary file that goes with the process.
func spooled(src io.Reader) (content, error) {
	f, err := os.CreateTemp("", "modulate-stdin-")
	if err != nil {
		return content{}, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return content{}, err
	}
	c, err := hashed(io.TeeReader(src, f))
	c.open = func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(f, 0, c.size)), nil
	}
	return c, err
}

// bytesText shows a number of bytes to a person.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.4g GiB", float64(n)/(1<<30))
	}
}
