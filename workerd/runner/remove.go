package runner

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// remove removes the directory with all that is in it, also where the script
// took rights away. It follows no symbolic link and needs the same few
// descriptors however deep the script has nested its directories: whatever
// directory it meets it moves to the top first.
func (d jobDir) remove() error {
	info, err := os.Lstat(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !info.IsDir() {
		return errors.Join(fmt.Errorf("%s is no directory", d), err)
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return err
	}
	defer root.Close()
	f := flattener{root: root}
	if err := f.each(".", func(e fs.DirEntry) error { return f.remove(e) }); err != nil {
		return err
	}
	return os.Remove(string(d))
}

// A flattener removes what is in root.
type flattener struct {
	root  *os.Root
	name  string // what moved directories' names start with
	moved int
}

// remove removes an entry of the root. What a directory holds but files ends
// up in the root.
func (f *flattener) remove(e fs.DirEntry) error {
	if !e.IsDir() {
		return f.root.Remove(e.Name())
	}
	if err := f.unlock(e.Name()); err != nil {
		return err
	}
	err := f.each(e.Name(), func(child fs.DirEntry) error {
		path := e.Name() + "/" + child.Name()
		if child.IsDir() {
			return f.lift(path)
		}
		return f.root.Remove(path)
	})
	if err != nil {
		return err
	}
	return f.root.Remove(e.Name())
}

// lift moves a directory to the root.
func (f *flattener) lift(path string) error {
	err := f.root.Remove(path)
	if err == nil {
		return nil // it was empty
	}
	if f.name == "" {
		f.name = rand.Text()
	}
	f.moved++
	if err := f.unlock(path); err != nil { // it is written to: its ".." changes
		return err
	}
	return f.root.Rename(path, fmt.Sprintf("%s-%d", f.name, f.moved))
}

// unlock lets us into a directory.
func (f *flattener) unlock(path string) error {
	info, err := f.root.Lstat(path)
	if err != nil || info.Mode().Perm()&0o700 == 0o700 {
		return err
	}
	return f.root.Chmod(path, 0o700)
}

// each calls do, which removes it, for every entry of a directory, and again
// for what do has moved there.
func (f *flattener) each(path string, do func(fs.DirEntry) error) error {
	const batch = 1024
	for {
		moved := f.moved
		dir, err := f.root.Open(path)
		if err != nil {
			return err
		}
		entries, err := dir.ReadDir(batch)
		if cerr := dir.Close(); err == nil {
			err = cerr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := do(e); err != nil {
				return err
			}
		}
		if len(entries) < batch && f.moved == moved {
			return nil
		}
	}
}
