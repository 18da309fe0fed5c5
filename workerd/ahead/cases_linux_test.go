package ahead_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"modulate/workerd/ahead"
)

// show prints what of a script's place it can know.
const show = `import sys
print(__file__, sys.argv, sys.path, getattr(sys, "orig_argv", 0), __name__, list(sys.path_importer_cache), type(__loader__), __spec__ and __spec__.name)
try: import helper
except ImportError: print("alone")
1/0
`

// TestBytes has sources that are no plain text.
func TestBytes(t *testing.T) {
	everyPython(t, func(t *testing.T, a attempt) {
		for name, source := range map[string]string{
			"mark":           "\xef\xbb\xbfprint('é')\n1/0\n",
			"mark and latin": "\xef\xbb\xbf# coding: latin-1\nprint('x')\n",
			"zero byte":      "print(1)\nprint('a\x00b')\n",
			"zero bytes":     "\x00\x00\x00\x00",
			"not UTF-8":      "print(1)\n\nprint('\xff')\n",
			"latin":          "# vim: set fileencoding=latin-1 :\nprint(ascii('\xe9'))\nraise ValueError('\xe9')\n",
			"UTF-16":         "\xff\xfep\x00r\x00i\x00n\x00t\x00",
			"returns":        "print(1)\r\nif 1:\r\n    1/0\r\n",
			"old returns":    "print(1)\r1/0\r",
			"no end":         "print(1)\n1/0",
			"no end of if":   "if 1:\n  print(1)",
			"backslash":      "x = 1 + \\",
			"form feed":      "\f\nprint(1)\n\f1/0\n",
			"control Z":      "print(1)\n\x1a\n",
			"long line":      "x = '" + strings.Repeat("é", 100_000) + "'\nprint(len(x)); 1/0  #" + strings.Repeat("x", 10_000),
			"an ELF":         "\x7fELF\x02\x01\x01\x00",
		} {
			t.Run(name, func(t *testing.T) {
				same(t, a, map[string]string{"s.py": source})
			})
		}
	})
}

// TestNames has scripts by every kind of path, and what is no script.
func TestNames(t *testing.T) {
	everyPython(t, func(t *testing.T, a attempt) {
		files := map[string]string{
			"s.py": show, "helper.py": "print('helped')\n", "sub/s.py": show, "sub/helper.py": "print('helped below')\n", "-c": show, "s": show,
			"sp ace é.py": show, "byte\xff.py": show, "package/__main__.py": show, "folder/s.py": show, "archive.py": archive(t), "bad.zip": "PK\x05\x06",
			"compiled.pyc": bytecode(t, a.command), "compiled.py": bytecode(t, a.command), "stale.pyc": "\x00\x00\x00\x00",
		}
		for _, name := range []string{
			"s.py", "./s.py", ".//s.py", "././s.py", "sub/s.py", "sub/../s.py", "sub//s.py", "./-c", "s", "sp ace é.py", "byte\xff.py",
			"package", "package/", "folder", "archive.py", "bad.zip", "compiled.pyc", "compiled.py", "stale.pyc", "missing.py", "s.py/x", "/dev/null",
		} {
			t.Run(name, func(t *testing.T) {
				a := a
				a.name, a.args = name, []string{"x"}
				same(t, a, files)
			})
		}
	})
}

func archive(t *testing.T) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("__main__.py")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.WriteString(f, show); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func bytecode(t *testing.T, command []string) string {
	dir := t.TempDir()
	const program = "import py_compile; py_compile.compile('s.py', 's.pyc')"
	lay(t, dir, map[string]string{"s.py": show})
	cmd := exec.Command(command[0], "-I", "-S", "-c", program)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	code, err := os.ReadFile(filepath.Join(dir, "s.pyc"))
	if err != nil {
		t.Fatal(err)
	}
	return string(code)
}

// TestEnvironments has environments of which some take effect before any
// script.
func TestEnvironments(t *testing.T) {
	const script = `import os, sys, time, locale
print(list(os.environ.items()), sys.flags, sys.stdout.encoding, sys.stdout.errors, sys.getfilesystemencoding(), sys.path)
print(locale.setlocale(locale.LC_CTYPE), time.tzname, time.localtime(0), ascii(sys.argv), open(os.devnull).encoding)
print([k for k in vars(sys.modules.get("site", sys)) if k.startswith("USER")], getattr(sys.modules.get("site"), "USER_BASE", 0))
sys.stdout.flush()
os.execv("/usr/bin/env", ["env"])
`
	everyPython(t, func(t *testing.T, a attempt) {
		for _, env := range [][]string{
			{}, {"HOME=/nowhere"}, {"HOME=/elsewhere"}, {"LANG=C"}, {"LC_ALL=C"}, {"LC_ALL=POSIX", "HOME=/nowhere"}, {"LANG=C.UTF-8"}, {"LC_CTYPE=C.UTF-8"}, {"LC_CTYPE=C"}, {"LC_CTYPE=POSIX", "LANG=C.UTF-8"},
			{"LC_ALL=C.UTF-8", "LANG=xx"}, {"LC_ALL="}, {"LC_TIME=C", "HOME=/nowhere"}, {"TZ=Asia/Tokyo", "HOME=/nowhere"}, {"TZ=X-3Y", "HOME=/nowhere"}, {"MALLOC_ARENA_MAX=1"},
			{"PYTHONHASHSEED=0", "PYTHONPATH=/evil", "PYTHONUNBUFFERED=1", "PYTHONIOENCODING=latin-1", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"},
			{"A=" + strings.Repeat("x", 100_000), "B=\x01\n\xff"},
		} {
			t.Run(strings.Join(env, " ")[:min(40, len(strings.Join(env, " ")))], func(t *testing.T) {
				a := a
				a.args, a.env = []string{"é\xff"}, env
				same(t, a, map[string]string{"s.py": script})
			})
		}
	})
}

// TestStreams has streams that are closed, broken, full, or a file.
func TestStreams(t *testing.T) {
	scripts := map[string]string{
		"prints":  "import sys\nprint('x' * 10)\nprint('y', file=sys.stderr)\n",
		"much":    "import sys\nfor i in range(9999): print('x' * 100)\n",
		"fails":   "print('x', end='')\n1/0\n",
		"exits":   "import sys\nprint('x')\nsys.exit('bye')\n",
		"atexit":  "import atexit\natexit.register(print, 'x')\nprint('y')\n",
		"looks":   "import os, sys\nopen('seen', 'w').write(repr((sys.stdin, sys.stdout, sys.stderr, os.listdir('/proc/self/fd'))))\nos.rename('seen', 'was')\nprint(open('was').read(), file=sys.stderr)",
		"reads":   "import sys\nprint(sys.stdin and sys.stdin.read())\n",
		"ignores": "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nfor i in range(9999): print('x' * 100)\n",
	}
	everyPython(t, func(t *testing.T, a attempt) {
		for name, script := range scripts {
			for kind, stdout := range outputs() {
				t.Run(name+" "+kind, func(t *testing.T) {
					a := a
					a.stdout = stdout
					same(t, a, map[string]string{"s.py": script})
				})
			}
			for fd := range 3 {
				t.Run(name+" closed "+string(rune('0'+fd)), func(t *testing.T) {
					a := a
					a.closed = fd + 1
					same(t, a, map[string]string{"s.py": script})
				})
			}
		}
	})
}

func outputs() map[string]func(*testing.T) *os.File {
	open := func(t *testing.T, path string, flag int) *os.File {
		f, err := os.OpenFile(path, flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	return map[string]func(*testing.T) *os.File{
		"full": func(t *testing.T) *os.File { return open(t, "/dev/full", os.O_WRONLY) },
		"file": func(t *testing.T) *os.File {
			return open(t, filepath.Join(t.TempDir(), "out"), os.O_RDWR|os.O_CREATE)
		},
		"broken": func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			return w
		},
	}
}

// A parked interpreter that is not wanted ends; what cannot be parked ends too,
// before it is ready.
func TestDismissed(t *testing.T) {
	for _, python := range pythons(t) {
		ours, theirs := socketpair(t)
		command := []string{python, "-I", "-S"}
		a := attempt{command: command}
		if err := compiled(t, command).Send(ours); err != nil {
			t.Fatal(err)
		}
		cmd, stdout, stderr := a.process(t, ahead.Command(command, 3))
		cmd.ExtraFiles = []*os.File{theirs}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		if _, err := ahead.Ready(ours); err != nil {
			t.Fatal(err)
		}
		ours.Close()
		if e := finish(t, cmd, stdout, stderr); e != (end{}) {
			t.Errorf("%s: %v", python, e)
		}
	}
	for said, want := range map[string]string{"": "EOF", "12": "EOF", "no\n": `"no"`, strings.Repeat("1", 100): "1111"} {
		if _, err := ahead.Ready(strings.NewReader(said)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", said, err)
		}
	}
}

// What is no CPython, or lacks what parking needs, is said at once.
func TestCompileFails(t *testing.T) {
	for _, command := range [][]string{{"/bin/false"}, {"/no/such/python"}, {pythons(t)[0], "-I", "-S", "-c", "raise SystemExit('no')", "x"}} {
		if program, err := ahead.Compile(t.Context(), command); err == nil || program != nil {
			t.Errorf("%q: %d bytes, %v", command, len(program), err)
		}
	}
}

func TestParks(t *testing.T) {
	for command, want := range map[string]bool{
		"/usr/bin/python3 -I -S": true, "/usr/bin/python3.12 -sE": true, "/usr/bin/python": true, "/venv/bin/python3 -OO -B -u -P -b": true,
		"python3 -I": false, "/usr/bin/node": false, "/usr/bin/python3 -c": false, "/usr/bin/python3 -m x": false, "/usr/bin/python3 -Ii": false,
		"/usr/bin/python3 -x": false, "/usr/bin/python3 -W error": false, "/usr/bin/python3 -": false, "/usr/bin/python3 --version": false, "": false,
	} {
		if got := ahead.Parks(strings.Fields(command)); got != want {
			t.Errorf("%q: %v", command, got)
		}
	}
}

func TestForks(t *testing.T) {
	for command, want := range map[string]bool{
		"/usr/bin/python3 -I -S": true, "/usr/bin/python3.12 -sES": true, "/usr/bin/python3 -I": false, "/usr/bin/python3 -I -S -c": false, "/opt/S/python3": false, "": false,
	} {
		if got := ahead.Forks(strings.Fields(command)); got != want {
			t.Errorf("%q: %v", command, got)
		}
	}
}

func TestSend(t *testing.T) {
	s := ahead.Script{Command: []string{"p", "-I"}, Name: "s", Args: []string{"", "a"}, Env: []string{"A=1"}, Dir: "/d"}
	var b bytes.Buffer
	if err := s.Send(&b); err != nil || b.String() != "\x00\x00\x00\x14/d\x002\x005\x00p\x00-I\x00s\x00\x00a\x00A=1" {
		t.Errorf("%q, %v", b.String(), err)
	}
	s.Args = []string{"a\x00b"}
	if err := s.Send(&b); err == nil || !strings.Contains(err.Error(), "zero byte") {
		t.Errorf("a zero byte: %v", err)
	}
	for size, want := range map[int]error{ahead.MaxMessage: nil, ahead.MaxMessage + 1: ahead.ErrTooLarge} {
		s := ahead.Script{Name: strings.Repeat("x", size-len("\x000\x001\x00"))}
		if err := s.Send(io.Discard); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
}
