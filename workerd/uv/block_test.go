package uv

import (
	"strings"
	"testing"
)

const block = `#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.9"
# dependencies = [
#   "six==1.16.0",
#   "idna[extra] >= 3 ; python_version < '4'",
# ]
#
# [tool.uv]
# exclude-newer = "2026-01-01T00:00:00Z"
# ///
print("hello")
`

func TestBlock(t *testing.T) {
	m, err := read([]byte(block))
	if err != nil || m.Python != ">=3.9" || len(m.Dependencies) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	again, err := read([]byte(m.text()))
	if err != nil || again.text() != m.text() || again.key() != m.key() {
		t.Errorf("what is written is read as %+v, %v:\n%s", again, err, m.text())
	}
}

// Blocks that ask for the same have one environment; others do not.
func TestKey(t *testing.T) {
	key := func(text string) string {
		t.Helper()
		m, err := read([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		return m.key()
	}
	head := "# /// script\n# dependencies = [%]\n# ///\n"
	with := func(deps string) string { return strings.ReplaceAll(head, "%", deps) }
	if key(with(`"a", "b"`)) != key("import os\n"+strings.ReplaceAll(with(`"b","a" , "a"`), "\n", "\r\n")+"print(1)\n") {
		t.Error("the order of dependencies, line ends or the script itself make another environment")
	}
	if key(with("")) != key("print(1)\n") {
		t.Error("no dependencies are not the same as none")
	}
	newest := "# /// script\n# [tool.uv]\n# exclude-newer = %\n# ///\n"
	if key(strings.ReplaceAll(newest, "%", "2026-01-01T00:00:00Z")) != key(strings.ReplaceAll(newest, "%", "'2026-01-01T00:00:00Z'")) {
		t.Error("a time with and without quotes are two environments")
	}
	if key(with(`"a==1"`)) == key(with(`"a==2"`)) || key(with("")) == key("# /// script\n# requires-python = '>=3.12'\n# ///\n") {
		t.Error("two that ask for different things have one environment")
	}
}

func TestBlocksThatAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"dependencies = [":     "cannot be read",
		"dependencies = 'six'": "cannot be read",
		"dependencies = ['six @ http://169.254.169.254/x']": "addresses and paths are not followed",
		"dependencies = ['six @ file:///etc/x.whl']":        "addresses and paths are not followed",
		"dependencies = ['./six.whl']":                      "addresses and paths are not followed",
		"dependencies = ['git+ssh://x']":                    "addresses and paths are not followed",
		"dependencies = ['--index-url=x']":                  "addresses and paths are not followed",
		"dependencies = ['/etc/x.whl']":                     "addresses and paths are not followed",
		"[tool.uv]\n# index = [{url = 'http://10.0.0.1'}]":  "its tool.uv.index is not taken",
		"[tool.uv.sources]\n# six = {path = '/etc'}":        "its tool.uv.sources is not taken",
		"[tool.uv]\n# no-build = false":                     "its tool.uv.no-build is not taken",
	} {
		_, err := read([]byte("# /// script\n# " + text + "\n# ///\n"))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	if _, err := read([]byte(block + block)); err == nil || !strings.Contains(err.Error(), "two blocks") {
		t.Errorf("two blocks: %v", err)
	}
}

// PEP 723: a block is whole, of comment lines only, and ends with the last line
// that may end it.
func TestWhatIsABlock(t *testing.T) {
	for text, want := range map[string]bool{
		block: true,
		"# /// script\n# dependencies = []\n# ///":                true,
		"# /// script\n# x = '''\n# ///\n# '''\n# ///\nprint()\n": true,
		"print(1)\n":                                false,
		"# /// script\n# dependencies = []\n":       false,
		"# /// script\ndependencies = []\n# ///\n":  false,
		"# /// script\n#dependencies = []\n# ///\n": false,
		"# /// pyproject\n# ///\n":                  false,
		"  # /// script\n  # ///\n":                 false,
	} {
		if got := HasBlock([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got, err := find([]byte("# /// script\n# x = '''\n# ///\n# '''\n# ///\n# more\n")); err != nil || got != "x = '''\n///\n'''\n" {
		t.Errorf("found %q, %v", got, err)
	}
}
