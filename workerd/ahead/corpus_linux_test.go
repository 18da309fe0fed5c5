package ahead_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"modulate/workerd/ahead"
)

// environment is what the scripts of the corpus see.
var environment = []string{"HOME=/nowhere", "PATH=/usr/bin:/bin", "Z=é\xff", "EMPTY=", "EQUALS=a=b", "A=1"}

// same runs a script each way in the same directory, laid out anew, and wants
// the same end.
func same(t *testing.T, a attempt, files map[string]string) {
	t.Helper()
	t.Parallel()
	a.dir = filepath.Join(t.TempDir(), "work")
	ways := []func(*testing.T) end{a.bare, a.parked}
	if a.forks(t) {
		ways = append(ways, a.forked)
	}
	var bare end
	for i, run := range ways {
		lay(t, a.dir, files)
		e := run(t)
		if i == 0 {
			bare = e
		} else if e != bare {
			t.Errorf("bare:\n%s\n%s:\n%s", bare, []string{1: "parked", 2: "forked"}[i], e)
		}
	}
}

func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (e end) String() string {
	return fmt.Sprintf("stdout: %s\nstderr: %s\nwait status: %#x", e.stdout, e.stderr, uint32(e.status))
}

// TestCorpus wants each script of the corpus to end the same, byte for byte,
// whether its interpreter was parked, forked for it, or neither.
func TestCorpus(t *testing.T) {
	corpus, err := txtar.ParseFile("testdata/corpus.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(corpus.Files) < 100 {
		t.Fatalf("%d scripts", len(corpus.Files))
	}
	everyPython(t, func(t *testing.T, a attempt) {
		for _, f := range corpus.Files {
			t.Run(strings.TrimSuffix(f.Name, ".py"), func(t *testing.T) {
				a := a
				a.name, a.args, a.stdin = f.Name, []string{"one", "", "t w\nö\xff"}, "first\nsecond\nthird\n"
				same(t, a, map[string]string{f.Name: string(f.Data), "helper.py": "print('helped')\n"})
			})
		}
	})
}

// everyPython runs a test for the commands of the runtimes python and, by the
// first interpreter, python-env.
func everyPython(t *testing.T, test func(*testing.T, attempt)) {
	for i, python := range pythons(t) {
		for _, flags := range [][]string{{"-I", "-S"}, {"-s", "-E"}} {
			if i > 0 && (testing.Short() || flags[0] == "-s") {
				continue
			}
			command := append([]string{python}, flags...)
			program := compiled(t, command)
			t.Run(strings.Join(command, " "), func(t *testing.T) {
				a := attempt{command: command, program: program, name: "s.py", env: environment}
				if ahead.Forks(command) {
					a.nursery, _ = nursery(t, command, program)
				}
				test(t, a)
			})
		}
	}
}
