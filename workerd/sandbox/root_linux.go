package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Root shows what one sandbox after another shows alike, mounted once: all
// but what the script may write, and the devices of a [Config]. A sandbox then
// begins with one recursive bind, where it took some forty, for each of which
// bubblewrap reads the whole table of mounts.
//
// It is mounted in a namespace of the caller's own, whose /proc it shows: see
// [Enter].
type Root struct {
	fd   int
	seen map[string]mark
}

// maxCopy is the size, in bytes, up to which a file of /etc is copied: the
// largest that most hosts have is ld.so.cache.
const maxCopy = 1 << 20

// MakeRoot mounts a Root on a directory, for sandboxes with that UID and
// Socket. Before each it is asked whether it is [Root.Current], and renewed.
func (c Config) MakeRoot(dir string, s Start) (_ *Root, err error) {
	r := &Root{fd: -1, seen: map[string]mark{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the root of sandboxes: %w", errors.Join(err, r.Close()))
		}
	}()
	// What is looked at twice is older the first time: Current is rather wrong by saying no.
	for _, name := range etc {
		r.watch("/etc/" + name)
	}
	r.watch(resolvConf)
	things := c.things(s)
	for _, t := range things {
		if t.from != "" {
			r.watch(t.from)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", dir, err)
	}
	if r.fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
	}
	for _, t := range things {
		if err := r.show(t); err != nil {
			return nil, fmt.Errorf("showing %s: %w", t.to, err)
		}
	}
	if err := r.processes(); err != nil {
		return nil, fmt.Errorf("showing /proc: %w", err)
	}
	if err := r.devices(); err != nil {
		return nil, fmt.Errorf("showing /dev: %w", err)
	}
	if err := protect(r.fd, 0, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV); err != nil {
		return nil, err
	}
	return r, nil
}

// Close takes it down. The sandboxes that were started from it keep theirs.
func (r *Root) Close() error {
	if r == nil || r.fd < 0 {
		return nil
	}
	err := unix.Unmount(r.path(), unix.MNT_DETACH)
	err = errors.Join(os.NewSyscallError("umount2", err), unix.Close(r.fd))
	r.fd = -1
	return err
}

// A mark tells one state of a file from another. A directory is shown as it is,
// whatever comes to be in it.
type mark struct {
	dev, ino uint64
	size     int64
	changed  unix.Timespec
}

func markOf(name string) (m mark) {
	var stat unix.Stat_t
	if unix.Stat(name, &stat) == nil {
		m.dev, m.ino = stat.Dev, stat.Ino
		if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			m.size, m.changed = stat.Size, stat.Ctim
		}
	}
	return m
}

func (r *Root) watch(name string) { r.seen[name] = markOf(name) }

// Current reports whether the host still has what the Root shows: files of /etc
// are replaced rather than written to, and so are interpreters.
func (r *Root) Current() bool {
	for name, seen := range r.seen {
		if markOf(name) != seen {
			return false
		}
	}
	return true
}

func (r *Root) show(t thing) error {
	to := strings.TrimPrefix(t.to, "/")
	switch {
	case t.text != "":
		return r.write(to, func(fd int) error {
			_, err := unix.Write(fd, []byte(t.text))
			return err
		})
	case t.link != "":
		return unix.Symlinkat(t.link, r.fd, to)
	case t.from == "":
		return r.mkdir(to)
	}
	info, err := os.Stat(t.from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.Join(r.mkdir(to), r.bind(t, to))
	}
	if within(t.to, "/etc") && t.to != resolvConf && info.Mode() == 0o644 && info.Size() <= maxCopy { // spares every sandbox a mount
		return r.copy(t.from, to, int(info.Size()))
	}
	return errors.Join(r.touch(to), r.bind(t, to))
}

// open opens a place in the root, where links lead to what is in it too.
func (r *Root) open(to string, flags, mode uint64) (int, error) {
	fd, err := unix.Openat2(r.fd, to, &unix.OpenHow{Flags: unix.O_CLOEXEC | flags, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return -1, &fs.PathError{Op: "opening", Path: "/" + to, Err: err}
	}
	return fd, nil
}

// mkdir makes a directory where there is nothing. What is there already may be
// the host's, and stays as it is.
func (r *Root) mkdir(to string) error {
	up, err := r.open(path.Dir(to), unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(up)
	err = unix.Mkdirat(up, path.Base(to), 0o755)
	if err == nil {
		err = unix.Fchmodat(up, path.Base(to), 0o755, 0) // whatever the umask
	} else if there, err := r.open(to, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		return unix.Close(there)
	}
	return os.NewSyscallError("mkdirat", err)
}

// touch makes a file for another to be mounted on, where there is nothing.
func (r *Root) touch(to string) error {
	if fd, err := r.open(to, unix.O_PATH, 0); err == nil {
		return unix.Close(fd)
	}
	return r.write(to, func(int) error { return nil })
}

// write makes a file.
func (r *Root) write(to string, fill func(fd int) error) error {
	fd, err := r.open(to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(fill(fd), unix.Fchmod(fd, 0o644), unix.Close(fd)) // whatever the umask
}

// copy makes a file with what the host has in one of that size. What changes
// meanwhile Current notices.
func (r *Root) copy(from, to string, size int) error {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	return r.write(to, func(fd int) error {
		for size > 0 {
			n, err := unix.Sendfile(fd, src, nil, size)
			if err != nil || n <= 0 {
				return err
			}
			size -= n
		}
		return nil
	})
}

// bind shows what of the host is named, with all that is mounted below it.
func (r *Root) bind(t thing, to string) error {
	attr := uint64(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV)
	if t.writable {
		attr = unix.MOUNT_ATTR_NODEV
	}
	return r.mount(t.from, to, attr)
}

// mount mounts a tree of the caller's at to, with attributes.
func (r *Root) mount(from, to string, attr uint64) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: from, Err: err}
	}
	defer unix.Close(tree)
	if err := protect(tree, unix.AT_RECURSIVE, attr); err != nil {
		return err
	}
	on, err := r.open(to, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(on)
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", on, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// protect gives what is mounted there attributes. No program in a sandbox gets
// the rights of its file's owner.
func protect(fd int, flags uint, attr uint64) error {
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &unix.MountAttr{Attr_set: attr | unix.MOUNT_ATTR_NOSUID})
	return os.NewSyscallError("mount_setattr", err)
}

// processes shows the caller's /proc. As by bubblewrap's --proc, which leaves
// out what this user could not write to anyhow, nobody can write to what of it
// is the whole machine's.
func (r *Root) processes() error {
	err := r.mount("/proc", "proc", unix.MOUNT_ATTR_NODEV)
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus"} {
		if _, there := os.Stat("/proc/" + name); err == nil && there == nil {
			err = r.mount("/proc/"+name, "proc/"+name, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_RDONLY)
		}
	}
	return err
}

// devices makes /dev as bubblewrap's --dev does, but for what [Root.Renew] adds.
func (r *Root) devices() error {
	if err := unix.Mount("tmpfs", r.path()+"/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		err := r.touch("dev/" + name)
		if err == nil {
			err = r.mount("/dev/"+name, "dev/"+name, 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
		{"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"},
	} {
		if err := unix.Symlinkat(link[0], r.fd, "dev/"+link[1]); err != nil {
			return fmt.Errorf("%s: %w", link[1], err)
		}
	}
	return errors.Join(r.mkdir("dev/shm"), r.mkdir("dev/pts"))
}

// Renew gives the next sandbox pseudoterminals of its own: where scripts have
// the caller's uid, the device that makes them is theirs to change.
func (r *Root) Renew() error {
	dir := r.path() + "/dev/pts"
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && err != unix.EINVAL { // it is not mounted yet
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	if err := unix.Mount("devpts", dir, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	return nil
}

// path leads to the Root wherever its directory was moved to.
func (r *Root) path() string { return "/proc/self/fd/" + strconv.Itoa(r.fd) }
