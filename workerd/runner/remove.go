package runner

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// remove removes the directory with all that is in it, also where the script
// took rights away. It follows no symbolic link and needs the same few
// descriptors however deep the script has nested its directories: whatever
// directory it meets it moves to the top first.
func (d jobDir) remove() error {
	err := d.empty(nil, nil)
	if err == nil {
		err = os.Remove(string(d))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the script was faster
	}
	return err
}

// empty removes what is in the directory, but for those files and for the
// directories in keep, which it empties.
func (d jobDir) empty(keep, files []string) error {
	root, err := openDir(unix.AT_FDCWD, string(d))
	if err != nil {
		return fmt.Errorf("opening %s: %w", d, err)
	}
	defer unix.Close(root)
	f := flattener{root: root, keep: keep, files: files, buf: make([]byte, 4<<10)}
	if err := f.each(root, f.remove); err != nil {
		return fmt.Errorf("emptying %s: %w", d, err)
	}
	return nil
}

// openDir opens the directory that name is in at, never through a link, and
// takes all rights to it.
func openDir(at int, name string) (int, error) {
	const flag = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, flag, 0)
	if err == unix.EACCES { // so it is a directory
		if err := unix.Fchmodat(at, name, 0o700, 0); err != nil {
			return -1, err
		}
		fd, err = unix.Openat(at, name, flag, 0)
	}
	if err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && stat.Mode&0o7777 != 0o700 {
		err = unix.Fchmod(fd, 0o700)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// A flattener removes what is in a directory.
type flattener struct {
	root  int      // its descriptor
	keep  []string // directories in it that are only emptied
	files []string // files in it that stay
	name  string   // what the names of moved directories start with
	moved int
	buf   []byte
}

// each calls do for every entry of a directory, again and again until do has
// changed nothing: a directory that changes may not tell all it holds at once.
func (f *flattener) each(dir int, do func(name string) (changed bool, err error)) error {
	for again := true; again; {
		again = false
		if _, err := unix.Seek(dir, 0, 0); err != nil {
			return err
		}
		for {
			n, err := unix.ReadDirent(dir, f.buf)
			if err != nil {
				return err
			}
			if n <= 0 {
				break
			}
			_, _, names := unix.ParseDirent(f.buf[:n], -1, nil)
			for _, name := range names {
				changed, err := do(name)
				if err != nil {
					return fmt.Errorf("%q: %w", name, err)
				}
				again = again || changed
			}
		}
	}
	return nil
}

// remove removes an entry of the root. The directories that it holds end up in
// the root.
func (f *flattener) remove(name string) (changed bool, err error) {
	if slices.Contains(f.files, name) && !f.holdsDir(name) {
		return false, nil
	}
	keep, moved := slices.Contains(f.keep, name), f.moved
	if !keep {
		if err := unix.Unlinkat(f.root, name, 0); !isDir(err) {
			return true, err
		}
	}
	dir, err := openDir(f.root, name)
	if keep && (err == unix.ENOTDIR || err == unix.ELOOP) {
		return true, unix.Unlinkat(f.root, name, 0)
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	err = f.each(dir, func(child string) (bool, error) {
		err := unix.Unlinkat(dir, child, 0)
		if isDir(err) {
			err = f.lift(dir, child)
		}
		return true, err
	})
	if err != nil || keep {
		return f.moved > moved, err
	}
	return true, unix.Unlinkat(f.root, name, unix.AT_REMOVEDIR)
}

// holdsDir reports whether that entry of the root is a directory.
func (f *flattener) holdsDir(name string) bool {
	var stat unix.Stat_t
	return unix.Fstatat(f.root, name, &stat, unix.AT_SYMLINK_NOFOLLOW) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

// lift removes a directory or, where it is not empty, moves it to the root.
func (f *flattener) lift(dir int, name string) error {
	if unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	if f.name == "" {
		f.name = rand.Text()
	}
	f.moved++
	if err := unix.Fchmodat(dir, name, 0o700, 0); err != nil { // it is written to: its ".." changes
		return err
	}
	return unix.Renameat(dir, name, f.root, fmt.Sprintf("%s-%d", f.name, f.moved))
}

// isDir reports whether that is what an unlink says of a directory: EISDIR on
// Linux, EPERM by POSIX.
func isDir(err error) bool { return err == unix.EISDIR || err == unix.EPERM }
