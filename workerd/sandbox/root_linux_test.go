package sandbox

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// apart runs do on a thread that has mounts of its own, and that ends with it.
func apart(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			t.Error(err)
			return
		}
		do()
	}()
	<-done
}

// rootOf makes a Root for the sandboxes of s, as a keeper does.
func rootOf(t *testing.T, c Config, s *Start) *Root {
	t.Helper()
	s.Root = t.TempDir()
	r, err := c.MakeRoot(s.Root, *s)
	if err == nil {
		err = r.Renew()
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	return r
}

// told runs a shell line in a sandbox.
func (p place) told(t *testing.T, line string) string {
	t.Helper()
	out, err := shell(t, p.c, p.s, line).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

type place struct {
	c Config
	s Start
}

// Whatever a sandbox shows, it shows by a Root that was made before as it does
// by mounts of its own, down to owners and modes; and nothing more can be
// written to, nor any program get more rights.
func TestARootShowsWhatASandboxWithoutOneDoes(t *testing.T) {
	rooted(t)
	data, cache, tool := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "tool")
	for _, dir := range []string{data + "/inner", filepath.Dir(tool)} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{data + "/set.csv", data + "/inner/set.csv", cache + "/model", tool} {
		if err := os.WriteFile(name, []byte("here"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	modes := map[string]os.FileMode{data: 0o711, data + "/inner": 0o751, cache: 0o777}
	for dir, mode := range modes {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	prefixes := []string{"/var/lib", "/usr/share"}
	if lib, err := filepath.Glob("/lib/*-linux-gnu*"); err == nil { // by a link, and there already
		prefixes = append(prefixes, lib...)
	}
	c := Config{
		Prefixes: prefixes, CLI: tool,
		Mounts: []Mount{
			{Source: data, Target: "/data/sets"}, {Source: cache, Target: "/data/cache", Writable: true}, {Source: tool, Target: "/opt/tool"},
			{Source: data, Target: "/nest", Writable: true}, {Source: cache, Target: "/nest/inner"}, {Source: tool, Target: "/nest/set.csv"},
			{Source: data, Target: "/below/deep"}, {Source: cache, Target: "/below"}, // the latter hides the former
		},
	}
	s := Start{UID: leased(t), Socket: data}
	apart(t, func() {
		with := s
		r := rootOf(t, c, &with)
		if r == nil {
			return
		}
		for _, line := range []string{ // not into /proc: with a Root it is this test's, whose processes come and go
			`find / /usr /etc/ssl /data /nest /below /opt /run /var/lib -maxdepth 2 \( -path /proc -prune -o -true \) ! -path '/usr/*' ! -path / -printf '%p %y %l %u %g %m\n' | sort -u`,
			`for f in $(find /etc /data /opt -type f); do echo $f; cat $f 2>&1; done | md5sum`,
			`for d in /nest /nest/inner /below / /usr /etc /etc/hosts /etc/services /data /data/sets /data/sets/set.csv /data/cache /data/cache/model /opt/tool /run /run/modulate /var; do [ -w $d ] && echo $d; done; true`,
			`find /dev /proc/sys /proc/irq /proc/bus -maxdepth 1 -printf '%p %y %l %u %g %m\n' | sort`,
			`cut -d' ' -f2,4 /proc/self/mounts | grep -v '^/\(proc\|dev\|job\)' | grep -v nosuid.*nodev; true`,
			`cut -d' ' -f2,4 /proc/self/mounts | grep '^/\(proc\|dev\|job\)' | grep -v ^/proc/sys | sort -u`,
			`for d in /dev /dev/x /dev/pts/x /proc/sys/kernel/hostname /proc/irq/x; do echo 2>/dev/null >$d || echo $d; done 2>/dev/null`,
			`echo >/dev/null; head -c 2 /dev/zero | od -c; head -c 9 /dev/urandom | wc -c; echo >/dev/full; exec 3<>/dev/ptmx && ls /dev/pts`,
			`echo new >/data/cache/more && cat /data/cache/more && rm /data/cache/more; echo no >/data/sets/more || echo refused`,
		} {
			own, shared := place{c, s}.told(t, line), place{c, with}.told(t, line)
			if own != shared {
				t.Errorf("%s:\n%s\nwith a Root\n%s", line, own, shared)
			}
		}
		for dir, want := range modes {
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s of the host was %o and is %v, %v", dir, want, info, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(with.Root); err != nil || len(left) > 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	})
}

// What the host replaces is what the next sandbox shows: a Root tells that it
// is not of today any more.
func TestARootIsNotCurrentOnceTheHostIsAnother(t *testing.T) {
	rooted(t)
	dir := t.TempDir()
	sets, tool := filepath.Join(dir, "sets"), filepath.Join(dir, "tool")
	for name, change := range map[string]func() error{
		"a directory that was replaced": func() error { return os.Rename(dir+"/new", sets) },
		"a program that was written to": func() error { return os.WriteFile(tool, []byte("longer"), 0o755) },
		"a file of /etc":                func() error { return unix.Mount(tool, "/etc/nsswitch.conf", "", unix.MS_BIND, "") },
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{os.RemoveAll(sets), os.Mkdir(sets, 0o755), os.MkdirAll(dir+"/new", 0o755), os.WriteFile(tool, nil, 0o755)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			apart(t, func() {
				s := Start{UID: FirstUID}
				r := rootOf(t, Config{CLI: tool, Mounts: []Mount{{Source: sets, Target: "/sets"}}}, &s)
				if r == nil {
					return
				}
				if err := os.WriteFile(sets+"/more", nil, 0o644); err != nil {
					t.Error(err)
				}
				if !r.Current() {
					t.Error("nothing was replaced, and it says so")
				}
				if name == "a directory that was replaced" {
					if err := os.RemoveAll(sets); err != nil {
						t.Error(err)
					}
				}
				if err := change(); err != nil {
					t.Error(err)
				}
				if r.Current() {
					t.Error("it takes itself for current")
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
