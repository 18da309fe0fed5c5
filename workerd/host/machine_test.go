package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modulate/workerd/sandbox"
)

func read(t *testing.T, text string) (Machine, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(file)
}

func TestMachineSaysWhatIsWrong(t *testing.T) {
	for text, says := range map[string]string{
		"[runtimes]\npython = []":                                   "runtimes.python is empty",
		"[runtime]":                                                 `"runtime" is not known; known is [runtimes]`,
		"[sandbox]\nnetwork = true":                                 `"sandbox.network" is not known`,
		"[sandbox]\nlevel = 'gvisor'":                               `sandbox.level "gvisor": want bwrap or none`,
		"[sandbox]\nlevel = 'none'\negress = true":                  "contains nothing",
		"[slot]\nmemory = '1GB'":                                    `"1GB" is no size`,
		"[slot]\nmemory = '-1GiB'":                                  `"-1GiB" is no size`,
		"[slot]\nmemory = '9999999TiB'":                             "is no size",
		"[slot]\nmemory = 1000":                                     "slot.memory 1000: want at least 32MiB",
		"[slot]\ncpu = -1":                                          "slot.cpu -1",
		"[slot]\npids = 1":                                          "slot.pids 1: want at least 8",
		"[slot]\nmemory = '1GiB'\nscratch = '2GiB'":                 "slot.scratch 2147483648",
		"[[sandbox.mounts]]\nsource = 'data'":                       `source "data": want an absolute path`,
		"[[sandbox.mounts]]\nsource = '/data/../root'":              "want an absolute path",
		"[[sandbox.mounts]]\nsource = '/no such place'":             "no such file",
		"[[sandbox.mounts]]\nsource = '/'\ntarget = '/host'":        "want an absolute path",
		"[[sandbox.mounts]]\nsource = '/root'\ntarget = '/etc/ssl'": `target "/etc/ssl": /etc is the sandbox's own`,
		"[[sandbox.mounts]]\nsource = '/root'\ntarget = '/run'":     "/run/modulate is the sandbox's own",
		"[gpus]\nlend = 'all'":                                      `gpus.lend "all": want each, shared or none`,
		"[uv]\ncache = 'here'":                                      "uv.cache is no absolute path: here",
		"[uv]\ncache = '/tmp/uv'":                                   "each sandbox has its own",
		"[uv]\nsize = '1GB'":                                        `"1GB" is no size`,
		"[sandbox]\ndevices = ['/etc/passwd']":                      `"/etc/passwd" is no device here`,
		"[sandbox]\ndevices = ['/dev/../dev/null']":                 "is no device here",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want %q", text, err, says)
		}
	}
}

func TestMachine(t *testing.T) {
	m, err := read(t, `
[runtimes]
python-env = ["/opt/venv/bin/python"]
[sandbox]
level = "bwrap"
egress = true
devices = ["/dev/null"]
[[sandbox.mounts]]
source = "/etc"
target = "/data"
[[sandbox.mounts]]
source = "/root"
writable = true
[slot]
memory = "1GiB"
`)
	if err != nil {
		t.Fatal(err)
	}
	c := m.config(sandbox.Bwrap, 2)
	if !c.Egress || len(c.Devices) != 1 || c.Limits.Memory != 1<<30 || c.Limits.Scratch != 1<<29 {
		t.Errorf("%+v", c)
	}
	want := []sandbox.Mount{{Source: "/etc", Target: "/data"}, {Source: "/root", Target: "/root", Writable: true}}
	if len(c.Mounts) != 2 || c.Mounts[0] != want[0] || c.Mounts[1] != want[1] {
		t.Errorf("%+v", c.Mounts)
	}
	if none, err := Read(""); err != nil || none.Sandbox.Level != "" {
		t.Errorf("without a file: %+v, %v", none, err)
	}
}

func TestSlotsShareTheMachine(t *testing.T) {
	for name, c := range map[string]struct {
		slot  Slot
		slots int
		want  sandbox.Limits
	}{
		"all of it":  {slots: 1, want: sandbox.Limits{Memory: 90 << 30, CPU: 8, PIDs: 2048, Scratch: 45 << 30}},
		"an eighth":  {slots: 8, want: sandbox.Limits{Memory: 90 << 27, CPU: 1, PIDs: 1024, Scratch: 90 << 26}},
		"configured": {slot: Slot{Memory: 1 << 30, CPU: 0.5, PIDs: 64, Scratch: 1 << 20}, slots: 3, want: sandbox.Limits{Memory: 1 << 30, CPU: 0.5, PIDs: 64, Scratch: 1 << 20}},
	} {
		if got := c.slot.share(100<<30, 8, c.slots); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
