package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"modulate/workerd/host"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// userSide is what this test binary is called when it is a user's.
const userSide = "host-user"

// nobody is the user, where root runs the tests.
const nobody = 65534

// A user's scripts have sandboxes too, with less around them, which is said in
// a line.
func TestAUsersScripts(t *testing.T) {
	attr := &syscall.SysProcAttr{}
	user := os.Getuid()
	if user == 0 {
		user = nobody
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	got := asUser(t, attr)
	if strings.HasPrefix(got, "no sandbox (a sandbox does not start: ") && strings.Contains(got, "denies user namespaces") {
		return // and is told what to do
	}
	want := fmt.Sprintf(`sandbox bwrap (no limits of memory, processes and processors: doctor says why)
user %d job, network [(1, 'lo')]
files of 67108864 bytes, no core: True, descriptors: True
a larger file: OSError
terminals: 666 666 666 666 666 666
python: 0, bash: 7
`, user)
	if got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
}

// Where the kernel denies users what sandboxes are made of, that is said.
func TestAUserWithoutNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("root alone makes a machine without user namespaces")
	}
	got := asUser(t, &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}},
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true},
		AmbientCaps: []uintptr{24}, // CAP_SYS_RESOURCE
	}, "DENIED=1")
	if want := " (" + namespaces + " is 0, which denies user namespaces: run as root, or change it))\n"; !strings.HasPrefix(got, "no sandbox (a sandbox does not start: ") || !strings.HasSuffix(got, want) {
		t.Errorf("it says %q, want …%q", got, want)
	}
}

// namespaces is how many user namespaces may be made in that of who asks.
const namespaces = "/proc/sys/user/max_user_namespaces"

// asUser runs this binary as a user, who has a directory of its own, and
// returns what it says.
func asUser(t *testing.T, attr *syscall.SysProcAttr, env ...string) string {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "modulate-user-") // a test's own is below one of root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := &exec.Cmd{Path: filepath.Join(dir, userSide), Args: []string{userSide}, Dir: dir, SysProcAttr: attr}
	cmd.Env = append(env, "PATH=/usr/local/bin:/usr/bin:/bin", "HOME="+dir, "TMPDIR="+dir)
	if err := os.WriteFile(cmd.Path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if attr.Credential != nil {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return string(out)
}

// asked is what a script of a user's sees and may.
const asked = `import os, pwd, resource, socket
print('user', os.getuid(), pwd.getpwuid(os.getuid()).pw_name + ', network', socket.if_nameindex())
limit = lambda name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name))
print('files of', limit('FSIZE')[1], 'bytes, no core:', limit('CORE') == (0, 0), end=', ')
print('descriptors:', 0 < limit('NOFILE')[1] <= 65536)
try:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.truncate(os.open('large', os.O_RDWR | os.O_CREAT), (64 << 20) + 1)
except OSError as e:
    print('a larger file:', type(e).__name__, flush=True)
`

// spoil opens a terminal, and keeps whoever is to share the device from doing
// so: it is the user's own.
const spoil = `import os, pty
pty.openpty()
print(' %o' % (os.stat('/dev/pts/ptmx').st_mode & 0o777), end='')
os.chmod('/dev/pts/ptmx', 0)
`

// userMain tells what contains a user's scripts, and runs some: more of those
// that spoil their terminals than there are keepers.
func userMain() error {
	if os.Getenv("DENIED") != "" {
		if err := os.WriteFile(namespaces, []byte("0"), 0); err != nil {
			return err
		}
	}
	m := host.Machine{Slot: host.Slot{Scratch: 64 << 20}}
	h, err := host.Open(m, host.Options{})
	if errors.Is(err, host.ErrLacking) {
		h, err = host.Open(host.Machine{}, host.Options{})
	}
	if err != nil {
		return err
	}
	defer h.Close()
	fmt.Println(h.Contains())
	if h.Sandbox.Level == sandbox.None {
		return nil
	}
	run, end, err := h.Runner(host.Worker{Spool: os.Getenv("TMPDIR"), Slots: 1})
	if err != nil {
		return err
	}
	defer end()
	script := func(runtime, text string) (code int, err error) {
		var out bytes.Buffer
		res := run.Run(context.Background(), runner.Job{
			Command: h.Runtimes[runtime], Name: "script", Stdout: &out, Stderr: &out,
			Script: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
		})
		fmt.Print(out.String())
		if res.End != runner.Exited || res.Err != nil {
			return 0, fmt.Errorf("%s: %+v", runtime, res)
		}
		return res.Code, nil
	}
	first, err := script("python", asked)
	if err != nil {
		return err
	}
	fmt.Print("terminals:")
	for range 6 {
		if _, err := script("python", spoil); err != nil {
			return err
		}
	}
	last, err := script("bash", "exit 7")
	fmt.Printf("\npython: %d, bash: %d\n", first, last)
	return err
}
