package host

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// visible are the directories that every sandbox shows.
var visible = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}

// prefixes returns what a sandbox has to show so that the commands of runtimes
// run in it, and the commands as they are then called: a link is followed,
// unless it is that of a Python environment, which is found by its name.
func prefixes(runtimes map[string][]string) (show []string, commands map[string][]string) {
	commands = map[string][]string{}
	for name, command := range runtimes {
		commands[name] = command
		if len(command) == 0 || !filepath.IsAbs(command[0]) {
			continue
		}
		binary, err := filepath.EvalSymlinks(command[0])
		if err != nil {
			continue // it is not installed, and is not found there either
		}
		dirs := []string{prefix(binary)}
		if venv := filepath.Dir(filepath.Dir(command[0])); environment(venv) != "" {
			dirs = append(dirs, venv, filepath.Dir(environment(venv)))
		} else {
			commands[name] = append([]string{binary}, command[1:]...)
		}
		show = append(show, dirs...)
	}
	slices.Sort(show)
	var outer []string // each dir once, and none that another one holds
	for _, dir := range show {
		if !slices.ContainsFunc(slices.Concat(visible, outer), func(o string) bool { return dir == o || strings.HasPrefix(dir, o+"/") }) {
			outer = append(outer, dir)
		}
	}
	return outer, commands
}

// prefix is the directory that a program was installed into, if it looks like
// one; else the program alone. A home is none, whatever lies in it.
func prefix(binary string) string {
	bin := filepath.Dir(binary)
	dir := filepath.Dir(bin)
	home, err := os.UserHomeDir()
	if filepath.Base(bin) != "bin" || dir == "/" || err == nil && dir == filepath.Clean(home) || filepath.Dir(dir) == "/home" {
		return binary
	}
	if info, err := os.Stat(filepath.Join(dir, "lib")); err != nil || !info.IsDir() {
		return binary
	}
	return dir
}

// environment returns the directory of the interpreter of a Python environment
// (PEP 405); "": dir is none.
func environment(dir string) string {
	f, err := os.Open(filepath.Join(dir, "pyvenv.cfg"))
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok && strings.TrimSpace(key) == "home" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
