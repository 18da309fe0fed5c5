package sandbox

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// etc are the files of the host's /etc that programs need and that tell
// nothing. Private keys lie beside some of them, so that no larger directory is
// here.
var etc = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "localtime", "timezone", "os-release", "debian_version",
	"system-release", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
	"ca-certificates", "crypto-policies", "alternatives", "mime.types", "services", "protocols", "gai.conf", "host.conf",
	"locale.conf", "terminfo", "fonts", "magic", "OpenCL", "vulkan",
}

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
	o := options{cmd: cmd, made: map[string]bool{}}
	o.privileges(c, s)
	o.system(c)
	if err := o.identity(c, s); err != nil {
		return nil, err
	}
	o.places(c, s)
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
	made map[string]bool // directories
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

// system shows what of the host every program needs.
func (o *options) system(c Config) {
	o.add("--ro-bind", "/usr", "/usr")
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if to, err := os.Readlink(dir); err == nil {
			o.add("--symlink", to, dir)
		} else {
			o.add("--ro-bind-try", dir, dir)
		}
	}
	for _, name := range etc {
		from := "/etc/" + name
		if _, err := os.Stat(from); err == nil {
			o.bind("--ro-bind", from, from)
		}
	}
	if c.Egress { // it may be a link into /run
		if from, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil {
			o.bind("--ro-bind", from, "/etc/resolv.conf")
		}
	}
	for _, dir := range c.Prefixes {
		o.bind("--ro-bind", dir, dir)
	}
	o.add("--proc", "/proc", "--dev", "/dev")
	for _, node := range c.Devices {
		o.add("--dev-bind", node, node)
	}
}

// identity makes the files that say who is there.
func (o *options) identity(c Config, s Start) error {
	uid, gid := s.UID, s.UID
	if s.UID == 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	files := map[string]string{
		"/etc/passwd": fmt.Sprintf("root:x:0:0:root:/:/bin/sh\njob:x:%d:%d:job:%s:/bin/sh\n", uid, gid, WorkDir),
		"/etc/group":  fmt.Sprintf("root:x:0:\njob:x:%d:\n", gid),
		"/etc/hosts":  "127.0.0.1 localhost modulate\n::1 localhost\n",
	}
	o.dir("/etc", "0755")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		o.add("--perms", "0444")
		if err := o.file("--ro-bind-data", path.Base(name), files[name], name); err != nil {
			return err
		}
	}
	return nil
}

// places makes what the script may write, and shows what it was promised. In
// the end nothing else can be written.
func (o *options) places(c Config, s Start) {
	size := strconv.FormatInt(c.Limits.Scratch, 10)
	for dir, perms := range map[string]string{ScratchDir: "0755", "/dev/shm": "1777"} {
		if c.Limits.Scratch > 0 {
			o.add("--size", size)
		}
		o.add("--perms", perms, "--tmpfs", dir)
		o.made[dir] = true
	}
	o.dir(WorkDir, "0777")
	o.dir(OutputDir, "0777")
	o.dir(TempDir, "1777")
	o.dir("/var", "0755")
	o.add("--symlink", "job/tmp", "/tmp", "--symlink", "../job/tmp", "/var/tmp")
	o.dir("/run", "0755")
	if s.Socket != "" {
		o.bind("--ro-bind", s.Socket, SocketDir)
	}
	if c.CLI != "" {
		o.bind("--ro-bind", c.CLI, BinDir+"/modulate")
	}
	for _, m := range c.Mounts {
		how := "--ro-bind"
		if m.Writable {
			how = "--bind"
		}
		o.bind(how, m.Source, m.Target)
	}
	o.add("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WorkDir)
}

// bind shows from at to. Bubblewrap would give the directories above to modes
// that only root can pass.
func (o *options) bind(how, from, to string) {
	o.parents(to)
	o.add(how, from, to)
}

func (o *options) parents(p string) {
	if up := path.Dir(p); up != "/" && !within(up, "/usr") {
		o.parents(up)
		o.dir(up, "0755")
	}
}

func (o *options) dir(p, perms string) {
	if !o.made[p] {
		o.made[p] = true
		o.add("--perms", perms, "--dir", p)
	}
}

// environment sets the script's.
func (o *options) environment(s Start) {
	for _, entry := range s.Env {
		name, value, _ := strings.Cut(entry, "=")
		o.add("--setenv", name, value)
	}
}
