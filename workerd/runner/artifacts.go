package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Limits of what a script may leave in MODULATE_OUTPUT.
const (
	MaxArtifacts    = 1000 // files
	MaxArtifactName = 1024 // bytes of a file's name, its directories included
	maxSkipped      = 100  // files named as skipped; the rest is counted
)

// Skipped is a file that is no artifact, and why.
type Skipped struct{ Name, Why string }

// Artifacts calls fn for each regular file below root, in ascending order of
// names, which are relative and slash-separated; the size is in bytes. It ends
// with fn's first error. More than [MaxArtifacts] files are an error, and fn
// is not called at all.
//
// It follows nothing that was planted: links of either kind, pipes, sockets
// and devices are skipped, and so is a name that is too long, not UTF-8, or
// holds control characters.
func Artifacts(ctx context.Context, root *os.Root, fn func(name string, size int64, open func() (io.ReadCloser, error)) error) ([]Skipped, error) {
	type file struct {
		name string
		info fs.FileInfo
	}
	var files []file
	var skipped skips
	count := 0
	err := walk(ctx, root, "", func(name string, info fs.FileInfo) {
		if why := unfit(name, info); why != "" {
			skipped.add(name, why)
		} else if count++; count <= MaxArtifacts {
			files = append(files, file{name, info})
		}
	})
	if err == nil && count > MaxArtifacts {
		err = fmt.Errorf("%d files, %d at most", count, MaxArtifacts)
	}
	if err != nil {
		return skipped.list(), fmt.Errorf("looking for artifacts: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range files {
		open := func() (io.ReadCloser, error) { return openSame(root, f.name, f.info) }
		if err := fn(f.name, f.info.Size(), open); err != nil {
			return skipped.list(), err
		}
	}
	return skipped.list(), nil
}

// walk visits everything in dir, whose names start with prefix, in no order:
// files, and directories that are nested too deep to be looked into. It gives
// itself the right to read the others.
func walk(ctx context.Context, dir *os.Root, prefix string, visit func(name string, info fs.FileInfo)) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		for _, e := range entries {
			info, err := dir.Lstat(e.Name())
			if err != nil {
				return err
			}
			if name := prefix + e.Name(); !info.IsDir() || len(name) > MaxArtifactName {
				visit(name, info)
			} else if err := walkInto(ctx, dir, prefix, info, visit); err != nil {
				return err
			}
		}
	}
}

// walkInto walks a directory in dir.
func walkInto(ctx context.Context, dir *os.Root, prefix string, info fs.FileInfo, visit func(string, fs.FileInfo)) error {
	if info.Mode().Perm()&0o700 != 0o700 {
		if err := dir.Chmod(info.Name(), 0o700); err != nil {
			return err
		}
	}
	sub, err := dir.OpenRoot(info.Name())
	if err != nil {
		return err
	}
	defer sub.Close()
	return walk(ctx, sub, prefix+info.Name()+"/", visit)
}

// unfit says why a file is no artifact, or nothing.
func unfit(name string, info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.IsDir():
		return "a directory nested too deep"
	case info.Mode()&fs.ModeSymlink != 0:
		return "a symbolic link"
	case !info.Mode().IsRegular():
		return "not a regular file"
	case !ok || uint64(stat.Nlink) > 1: // its width differs between systems
		return "a file with several names"
	case len(name) > MaxArtifactName:
		return fmt.Sprintf("a name of %d bytes, %d at most", len(name), MaxArtifactName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "a name with characters that cannot be shown"
	}
	return ""
}

// openSame opens the file that was found under name, and no other.
func openSame(root *os.Root, name string, want fs.FileInfo) (io.ReadCloser, error) {
	const flag = os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOFOLLOW
	f, err := root.OpenFile(name, flag, 0)
	if errors.Is(err, fs.ErrPermission) && root.Chmod(name, 0o600) == nil {
		f, err = root.OpenFile(name, flag, 0)
	}
	if err != nil {
		return nil, err
	}
	if got, err := f.Stat(); err != nil || !os.SameFile(got, want) {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%q is another file now", name), err)
	}
	return f, nil
}

// skips gathers what was skipped.
type skips struct {
	named []Skipped
	more  int
}

func (s *skips) add(name, why string) {
	if len(s.named) < maxSkipped {
		s.named = append(s.named, Skipped{name, why})
	} else {
		s.more++
	}
}

// list returns the skipped files in ascending order of names; the last item
// counts those that are not named.
func (s *skips) list() []Skipped {
	slices.SortFunc(s.named, func(a, b Skipped) int { return strings.Compare(a.Name, b.Name) })
	if s.more > 0 {
		return append(s.named, Skipped{fmt.Sprintf("%d more", s.more), "not named"})
	}
	return s.named
}
