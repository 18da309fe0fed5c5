//go:build linux

package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The files of a folder.
const (
	socketName   = "socket"
	manifestName = "manifest"
	exitName     = "exit"
	childrenName = "children"
	socketsName  = "api"
	rootName     = "root"
)

// streamNames are the files with what a script wrote.
var streamNames = [2]string{"stdout", "stderr"}

// Of each stream the first Half bytes are kept at their place, and after them
// the last Half in a ring, which is larger by slack: what is still in a pipe
// when its script is dead finds room without a worker that reads.
const (
	Half  = 8 << 20
	slack = 2 << 20 // more than a pipe may hold: fs.pipe-max-size is 1 MiB (pipe(7))
	ring  = Half + slack
)

// place is where byte number at of a stream stands in its file, and how many
// bytes follow it there.
func place(at int64) (offset, room int64) {
	if at < Half {
		return at, Half - at
	}
	in := (at - Half) % ring
	return Half + in, ring - in
}

// sealed is b with its length and checksum before it: what was not written
// whole is not taken for whole.
func sealed(b []byte) []byte {
	head := make([]byte, 8, 8+len(b))
	binary.LittleEndian.PutUint32(head, uint32(len(b)))
	binary.LittleEndian.PutUint32(head[4:], crc32.ChecksumIEEE(b))
	return append(head, b...)
}

// unsealed is the inverse of sealed; nil: it is not whole, or empty.
func unsealed(b []byte) []byte {
	if len(b) < 8 {
		return nil
	}
	n, body := binary.LittleEndian.Uint32(b), b[8:]
	if n == 0 || uint64(n) > uint64(len(body)) || crc32.ChecksumIEEE(body[:n]) != binary.LittleEndian.Uint32(b[4:]) {
		return nil
	}
	return body[:n]
}

// A Folder is the folder of a keeper, as its worker sees it.
type Folder struct {
	Dir      string
	Door     io.Closer // whatever its worker has open as long as the folder; nil: nothing
	manifest *os.File
	streams  [2]*os.File
}

// manifestRoom is allocated ahead, so that writing a manifest changes no more
// than its bytes.
const manifestRoom = 4096

// MakeFolder makes a folder in dir, which exists.
func MakeFolder(dir string) (*Folder, error) {
	f := &Folder{Dir: dir}
	for _, name := range []string{f.Sockets(), filepath.Join(dir, rootName)} {
		if err := os.Mkdir(name, 0o755); err != nil {
			return nil, fmt.Errorf("making a keeper's folder: %w", err)
		}
	}
	for _, name := range []string{streamNames[0], streamNames[1], exitName, childrenName, manifestName} {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("making a keeper's folder: %w", err)
		}
		f.hold(name, file)
	}
	_, err := f.manifest.WriteAt(make([]byte, manifestRoom), 0)
	if err = errors.Join(err, f.manifest.Sync(), syncDir(dir)); err != nil {
		f.Close()
		return nil, fmt.Errorf("making a keeper's folder: %w", err)
	}
	return f, nil
}

// OpenFolder opens the folder of a keeper that another process has started.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{Dir: dir}
	for _, name := range []string{streamNames[0], streamNames[1], manifestName} {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.hold(name, file)
	}
	return f, nil
}

// hold keeps an open file of the folder, if it is one that stays open.
func (f *Folder) hold(name string, file *os.File) {
	switch name {
	case manifestName:
		f.manifest = file
	case streamNames[0]:
		f.streams[0] = file
	case streamNames[1]:
		f.streams[1] = file
	default:
		file.Close()
	}
}

// Close closes the files.
func (f *Folder) Close() {
	for _, file := range []*os.File{f.manifest, f.streams[0], f.streams[1]} {
		if file != nil {
			file.Close()
		}
	}
	if f.Door != nil {
		f.Door.Close()
	}
}

// WriteManifest writes down what an adopter must know of the job: it stands on
// the disk before WriteManifest returns. It costs one pwrite and one fdatasync
// as long as note is no longer than 4 KiB.
func (f *Folder) WriteManifest(note []byte) error {
	_, err := f.manifest.WriteAt(sealed(note), 0)
	if err == nil {
		err = unix.Fdatasync(int(f.manifest.Fd()))
	}
	if err != nil {
		return fmt.Errorf("writing a job's manifest: %w", err)
	}
	return nil
}

// ClearManifest says that there is no job any more. Not synced: an adopter
// that meets an old manifest finds its promise settled.
func (f *Folder) ClearManifest() error {
	if _, err := f.manifest.WriteAt(make([]byte, 8), 0); err != nil {
		return fmt.Errorf("clearing a job's manifest: %w", err)
	}
	return nil
}

// Manifest returns what WriteManifest wrote; nil: there is no job.
func (f *Folder) Manifest() ([]byte, error) {
	b, err := io.ReadAll(io.NewSectionReader(f.manifest, 0, maxFrame))
	if err != nil {
		return nil, fmt.Errorf("reading a job's manifest: %w", err)
	}
	return unsealed(b), nil
}

// Exit returns how the job ended, as its keeper wrote it down. False: it did
// not come to that.
func (f *Folder) Exit() (e Exit, ok bool) {
	b, err := os.ReadFile(filepath.Join(f.Dir, exitName))
	if err != nil {
		return e, false
	}
	body := unsealed(b)
	return e, body != nil && e.unpack(body) == nil
}

// Sockets is the path of the directory that a script in a sandbox has for the
// socket of its worker.
func (f *Folder) Sockets() string { return filepath.Join(f.Dir, socketsName) }

// Children is the path of the file with the numbers given to children, which
// is the worker's own.
func (f *Folder) Children() string { return filepath.Join(f.Dir, childrenName) }

// read reads bytes of a stream from number at up to end, at most len(p).
func (f *Folder) read(stream int, p []byte, at, end int64) (int, error) {
	offset, room := place(at)
	n := min(int64(len(p)), room, end-at)
	got, err := f.streams[stream].ReadAt(p[:n], offset)
	if int64(got) == n {
		err = nil
	}
	return got, err
}

// written is how many bytes of a stream stand in its file for sure.
func (f *Folder) written(stream int) int64 {
	info, err := f.streams[stream].Stat()
	if err != nil {
		return 0
	}
	return min(info.Size(), Half)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
