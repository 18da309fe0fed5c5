package host

import (
	"errors"
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
