package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rooted skips a test that needs bubblewrap, and root for uids, groups and
// networks.
func rooted(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("root alone gives scripts uids, groups and networks")
	}
}

// shell returns a command that runs a shell line in a sandbox. It sees this
// process's /proc.
func shell(t *testing.T, c Config, s Start, line string) *exec.Cmd {
	t.Helper()
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s.Command = []string{"/bin/sh", "-c", line}
	if s.UID == 0 {
		s.UID = leased(t)
	}
	start, err := c.Command(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { start.Close() })
	return &exec.Cmd{Path: start.Path, Args: start.Argv, Env: start.Env, ExtraFiles: start.Files}
}

// leased is the uid of scripts of this test, 0: its own.
func leased(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		return 0
	}
	uid, err := LeaseUID()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := uid.Close(); err != nil {
			t.Error(err)
		}
	})
	return uid.Number
}

func TestASandboxShowsWhatItShouldAndNothingElse(t *testing.T) {
	rooted(t)
	c := Config{Limits: Limits{Scratch: 1 << 20}}
	for line, want := range map[string]string{
		"env | sort":             "A=b c|HOME=/job/work|PWD=/job/work",
		"ls /":                   "bin|dev|etc|job|lib|lib64|proc|run|sbin|tmp|usr|var",
		"ls /job /var /run; pwd": "/job:|output|tmp|work||/run:||/var:|tmp|/job/work",
		"hostname; whoami":       "modulate|job",
		"ls -x /proc/self/fd":    "0  1  2  3", // ls's own is the last
		"for d in / /job /usr /dev /etc /var /run /proc/sys/kernel; do touch $d/x 2>/dev/null && echo $d; done": "",
		"for d in /job/work /job/output /job/tmp /tmp /var/tmp /dev/shm; do touch $d/x || echo $d; done":        "",
		"grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr -d '\\t' | grep -vE ':0{16}$'": "NoNewPrivs:1",
		"head -c 2000000 /dev/zero >a 2>/dev/null || stat -f -c %f /job":                                        "0",
		"cat /proc/net/dev | sed 1,2d | cut -d: -f1 | tr -d ' '":                                                "lo",
	} {
		out, err := shell(t, c, Start{Env: []string{"A=b c", "HOME=" + WorkDir}}, line).CombinedOutput()
		got := strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "|")
		if got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", line, err, got, want)
		}
	}
}

func TestOptionsAndEnvironmentAreInNoCommandLine(t *testing.T) {
	rooted(t)
	cmd := shell(t, Config{}, Start{Env: []string{"SECRET=much"}, Socket: t.TempDir()}, "true")
	for _, word := range slices.Concat(cmd.Args, cmd.Env) {
		if strings.Contains(word, "SECRET") || strings.Contains(word, SocketDir) {
			t.Errorf("%q can be read by everybody", word)
		}
	}
	if len(cmd.Env) > 0 {
		t.Errorf("bubblewrap's own environment: %q", cmd.Env)
	}
}

// cgroups are those of a process or thread.
func cgroups(t *testing.T, who string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + who + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Under v2 a process is made in its group. Where the memory's controller is
// v1's, v2 has groups all the same.
func TestAProcessIsMadeInItsGroup(t *testing.T) {
	rooted(t)
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
		top += "/unified"
	}
	if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
		t.Skip("there is no cgroup v2 here")
	}
	const name = "modulate-test-made"
	if err := os.Mkdir(filepath.Join(top, name), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(top, name))
	g := &Group{at: hierarchy{v2: true, top: top, parent: map[string]string{"memory": top}}, name: name}
	cmd := exec.Command("/bin/cat", "/proc/self/cgroup")
	var out strings.Builder
	cmd.Stdout, cmd.SysProcAttr = &out, &syscall.SysProcAttr{}
	if err := g.Start(cmd.SysProcAttr, cmd.Run); err != nil || !strings.Contains(out.String(), "0::/"+name+"\n") {
		t.Errorf("%v, in\n%s", err, &out)
	}
}

// Who makes groups and who sweeps do not disturb each other: two daemons on one
// host begin at once.
func TestGroupsAreMadeWhileOthersSweep(t *testing.T) {
	rooted(t)
	var sweepers sync.WaitGroup
	defer sweepers.Wait()
	var done atomic.Bool
	defer done.Store(true)
	for range 2 {
		sweepers.Go(func() {
			for !done.Load() {
				if err := SweepGroups(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 500 {
		g, err := OpenGroup("test-swept", Limits{PIDs: 1})
		if err == nil {
			err = g.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAGroupCountsAndKills(t *testing.T) {
	rooted(t)
	g, err := OpenGroup("test-counts", Limits{Memory: 64 << 20, PIDs: 32, CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, told, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; tail /dev/zero; echo over; sleep 1000 & sleep 1000")
	cmd.Stdin, cmd.Stdout = in, told
	before := cgroups(t, "thread-self")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if err := g.Start(cmd.SysProcAttr, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if after := cgroups(t, "thread-self"); after != before {
		t.Errorf("the starting thread is in\n%s\nand was in\n%s", after, before)
	}
	feed.WriteString("\n")
	out.Read(make([]byte, 5)) // tail has ended
	if n, err := g.OOMKills(); err != nil || n != 1 {
		t.Errorf("%d oom kills, %v", n, err)
	}
	if err := SweepGroups(); err != nil {
		t.Error(err)
	}
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the shell has not been killed")
	}
	if used, err := g.CPU(); err != nil || used <= 0 {
		t.Errorf("used %v, %v", used, err)
	}
}
