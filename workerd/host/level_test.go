package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"modulate/workerd/sandbox"
)

func TestLevel(t *testing.T) {
	ok, not := sandbox.Finding{OK: true}, sandbox.Finding{Text: "install it"}
	all := sandbox.Report{Sandbox: ok, Groups: ok, UIDs: ok, Egress: ok}
	user := sandbox.Report{Sandbox: ok, Groups: not, UIDs: not, Egress: not}
	nothing := sandbox.Report{Sandbox: not, Groups: not, UIDs: not, Egress: not}
	for name, c := range map[string]struct {
		text string
		has  sandbox.Report
		want sandbox.Level
		says string // the error
	}{
		"by itself":                   {has: all, want: sandbox.Bwrap},
		"a user's":                    {has: user, want: sandbox.Bwrap},
		"by itself, where it is not":  {has: nothing, want: sandbox.None},
		"none":                        {text: "[sandbox]\nlevel = 'none'", has: all, want: sandbox.None},
		"bwrap":                       {text: "[sandbox]\nlevel = 'bwrap'", has: user, want: sandbox.Bwrap},
		"bwrap, where it is not":      {text: "[sandbox]\nlevel = 'bwrap'", has: nothing, says: "a sandbox: install it"},
		"limits, where they are not":  {text: "[slot]\nmemory = '1GiB'", has: user, says: "the limits of [slot]: install it"},
		"scratch alone":               {text: "[slot]\nscratch = '1GiB'", has: user, want: sandbox.Bwrap},
		"egress, where it is not":     {text: "[sandbox]\negress = true", has: user, says: "sandbox.egress: install it"},
		"mounts, where no sandbox is": {text: "[[sandbox.mounts]]\nsource = '/root'", has: nothing, says: "a sandbox: install it"},
	} {
		m, err := read(t, c.text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.level(c.has)
		if got != c.want || (c.says == "") != (err == nil) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
		if c.says != "" && (!errors.Is(err, ErrLacking) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v; want %q", name, err, c.says)
		}
	}
}

// An interpreter that sandboxes cannot show is found out before a script is
// there: by itself there is no sandbox then, and one that is asked for is
// lacking.
func TestMisplacedInterpreters(t *testing.T) {
	venv, err := os.MkdirTemp("/tmp", "venv-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(venv)
	link := filepath.Join(venv, "bin/python")
	err = errors.Join(os.Mkdir(filepath.Dir(link), 0o755), os.Symlink("/usr/bin/env", link),
		os.WriteFile(filepath.Join(venv, "pyvenv.cfg"), []byte("home = /usr/bin\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	runtimes := map[string][]string{"python": {"/usr/bin/env"}}
	if why := misplaced(runtimes); why != "" {
		t.Error(why)
	}
	runtimes["ours"] = []string{link}
	why := misplaced(runtimes)
	if want := "the runtime ours, " + link + ", needs " + venv + ", and each sandbox has a /tmp of its own: "; !strings.HasPrefix(why, want) {
		t.Errorf("it says %q, want %q…", why, want)
	}
	m := Machine{Runtimes: map[string][]string{"ours": {link}}}
	if found, err := Examine(m); err != nil || found[0].OK || found[len(found)-1].Text != "none: scripts run without a sandbox" {
		t.Errorf("%+v, %v", found, err)
	}
	m.Sandbox.Level = sandbox.Bwrap
	if _, err := m.Plan(1); !errors.Is(err, ErrLacking) || sandbox.Probe().Sandbox.OK && !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want %q", err, why)
	}
}

// Environments of uv are not made where sandboxes could not show them.
func TestMisplacedEnvironments(t *testing.T) {
	cache, err := UV{Cache: "/tmp/uv"}.environments("/usr/bin/python3", sandbox.Bwrap, slog.New(slog.DiscardHandler))
	if cache != nil || err == nil || !strings.Contains(err.Error(), "below /tmp") {
		t.Errorf("%v, %v", cache, err)
	}
}

func TestPrefixes(t *testing.T) {
	root := t.TempDir()
	make := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", root+"/me")
	make("py/bin/python3", "")
	make("py/lib/os.py", "")
	make("venv/pyvenv.cfg", "home = "+root+"/current/bin\nversion = 3\n")
	make("venv/bin/pip", "")
	link("py", "current")
	link(root+"/current/bin/python3", "venv/bin/python")
	make("me/bin/tool", "")
	make("me/lib/secret", "")
	make("tools/alone", "")
	link(root+"/py/bin/python3", "me/bin/python3")
	show, commands := prefixes(map[string][]string{
		"binary": {}, "bash": {"/usr/bin/env"}, "away": {root + "/not/there"}, "bare": {"node"},
		"python": {root + "/me/bin/python3", "-I"}, "venv": {root + "/venv/bin/python"},
		"tool": {root + "/me/bin/tool"}, "alone": {root + "/tools/alone"},
	})
	want := []string{root + "/current", root + "/me/bin/tool", root + "/py", root + "/tools/alone", root + "/venv"}
	if !slices.Equal(show, want) {
		t.Errorf("shown: %q\nwant %q", show, want)
	}
	if got := commands["python"]; !slices.Equal(got, []string{root + "/py/bin/python3", "-I"}) {
		t.Errorf("python: %q", got)
	}
	if got := commands["venv"]; !slices.Equal(got, []string{root + "/venv/bin/python"}) {
		t.Errorf("venv: %q", got)
	}
}
