package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keep is what bubblewrap's payload keeps of root until setpriv has given it
// up.
var keep = []string{"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"}

// setpriv is where util-linux has it.
const setpriv = "/usr/bin/setpriv"

// look finds a program on PATH, or where distributions have it: a keeper has no
// PATH, and a user's often lacks the sbin directories.
func look(name string) (path string, err error) {
	for _, dir := range []string{"", "/usr/bin/", "/usr/local/bin/", "/usr/sbin/", "/sbin/"} {
		if path, err = exec.LookPath(dir + name); err == nil {
			break
		}
	}
	return path, err
}

// Command returns how a sandbox is started. As root, bubblewrap needs no user
// namespace, and setpriv turns the script into s.UID without capabilities:
// what root alone may read, such as an interpreter below /root, can be bound.
// Others get a user namespace, in which the script cannot make another. There
// is no pid namespace here, and /proc is the caller's: see [Enter].
func (c Config) Command(s Start) (_ *Command, err error) {
	if len(s.Command) == 0 || !path.IsAbs(s.Command[0]) {
		return nil, fmt.Errorf("starting a sandbox: %q is no absolute path", s.Command)
	}
	if c.Egress {
		if err := holdEgress(); err != nil {
			return nil, fmt.Errorf("starting a sandbox: %w", err)
		}
	}
	bwrap, err := look("bwrap")
	if err != nil {
		return nil, fmt.Errorf("starting a sandbox: %w", err)
	}
	cmd := &Command{Path: bwrap, Env: []string{}, Files: slices.Clone(s.Files)}
	defer func() {
		if err != nil {
			cmd.Close()
		}
	}()
	o := options{cmd: cmd}
	o.privileges(c, s)
	if s.Root != "" {
		o.add("--dev-bind", s.Root, "/")
	} else {
		if err := o.show(c.things(s)); err != nil {
			return nil, err
		}
		o.add("--proc", "/proc")
	}
	if s.Root == "" || len(c.Devices) > 0 {
		o.devices(c)
	}
	o.places(c)
	o.add("--remount-ro", "/dev", "--remount-ro", "/")
	o.environment(s)
	if err := o.file("--seccomp", "modulate-seccomp", string(filter())); err != nil {
		return nil, err
	}
	if err := o.file("--args", "modulate-options", strings.Join(o.list, "\x00")+"\x00"); err != nil {
		return nil, err
	}
	cmd.Argv = append([]string{"bwrap"}, o.list[len(o.list)-2:]...)
	cmd.Argv = append(cmd.Argv, "--")
	if s.UID != 0 {
		id := strconv.Itoa(s.UID)
		cmd.Argv = append(cmd.Argv, setpriv, "--reuid", id, "--regid", id, "--clear-groups",
			"--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--")
	}
	cmd.Argv = append(cmd.Argv, s.Command...)
	return cmd, nil
}

// options are bubblewrap's, in the order in which it obeys them. They reach it
// by a descriptor: who looks at a command line sees none of them.
type options struct {
	cmd  *Command
	list []string
}

func (o *options) add(words ...string) { o.list = append(o.list, words...) }

// number is the number of a descriptor that bubblewrap gets.
func (o *options) number(f *os.File) string {
	o.cmd.Files = append(o.cmd.Files, f)
	return strconv.Itoa(2 + len(o.cmd.Files))
}

// file adds an option whose first argument is a descriptor with that content.
func (o *options) file(option, name, content string, rest ...string) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("starting a sandbox: making %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	o.cmd.own = append(o.cmd.own, f)
	if _, err = f.WriteString(content); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return fmt.Errorf("starting a sandbox: writing %s: %w", name, err)
	}
	o.add(option, o.number(f))
	o.add(rest...)
	return nil
}

func (o *options) privileges(c Config, s Start) {
	if s.UID != 0 {
		o.add("--cap-drop", "ALL")
		for _, name := range keep {
			o.add("--cap-add", name)
		}
	} else {
		o.add("--unshare-user", "--disable-userns")
	}
	o.add("--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "modulate", "--new-session")
	if !c.Egress {
		o.add("--unshare-net")
	}
	if s.Block != nil {
		o.add("--block-fd", o.number(s.Block))
	}
	if s.Info != nil {
		o.add("--info-fd", o.number(s.Info))
	}
}

// show has bubblewrap make what a root shows.
func (o *options) show(things []thing) error {
	for _, t := range things {
		switch {
		case t.text != "":
			o.add("--perms", "0644")
			if err := o.file("--ro-bind-data", path.Base(t.to), t.text, t.to); err != nil {
				return err
			}
		case t.link != "":
			o.add("--symlink", t.link, t.to)
		case t.from == "":
			o.add("--perms", "0755", "--dir", t.to)
		case t.writable:
			o.add("--bind", t.from, t.to)
		default:
			o.add("--ro-bind", t.from, t.to)
		}
	}
	return nil
}

func (o *options) devices(c Config) {
	o.add("--dev", "/dev")
	for _, node := range c.Devices {
		o.add("--dev-bind", node, node)
	}
}

// places makes what the script may write. In the end nothing else can be.
func (o *options) places(c Config) {
	size := strconv.FormatInt(c.Limits.Scratch, 10)
	for _, dir := range [][2]string{{ScratchDir, "0755"}, {"/dev/shm", "1777"}} {
		if c.Limits.Scratch > 0 {
			o.add("--size", size)
		}
		o.add("--perms", dir[1], "--tmpfs", dir[0])
	}
	for _, dir := range [][2]string{{WorkDir, "0777"}, {OutputDir, "0777"}, {TempDir, "1777"}} {
		o.add("--perms", dir[1], "--dir", dir[0])
	}
	o.add("--chdir", WorkDir)
}

// environment sets the script's.
func (o *options) environment(s Start) {
	for _, entry := range s.Env {
		name, value, _ := strings.Cut(entry, "=")
		o.add("--setenv", name, value)
	}
}
