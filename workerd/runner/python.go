package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// pythonLimit bounds how long an interpreter may take to tell its name.
const pythonLimit = 30 * time.Second

// Python returns the path of the python3 that PATH leads to: the interpreter
// itself, for what stands in PATH may be a version manager's shim, which costs
// up to 100 ms at each start. Inside a virtual environment it is the
// environment's. ErrNotInstalled.
func Python() (string, error) {
	shim, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("python3 is %w: install Python 3 (apt-get install python3, brew install python, or python.org) and put it on PATH", ErrNotInstalled)
	}
	ctx, cancel := context.WithTimeout(context.Background(), pythonLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, shim, "-I", "-S", "-c", "import sys; print(sys.executable)").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("asking %s which interpreter it is: %w", shim, err)
	}
	path := strings.TrimSpace(string(out))
	if _, err := exec.LookPath(path); err != nil || !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s says that its interpreter is %q, which cannot be run", shim, path)
	}
	return path, nil
}

// Runtimes returns the commands of the runtimes, by name: the standard ones,
// and over them those of config. What this machine lacks stays a bare name,
// with which a job ends Failed and ErrNotInstalled.
//
//	python      python3 -I -S: the standard library alone
//	python-env  python3 -s -E: also the machine's site-packages and the files beside the script
//	bash, node  as on PATH
//	binary      the script itself
//
// Neither Python sees a PYTHON* variable or the user's own site-packages.
func Runtimes(config map[string][]string) map[string][]string {
	python, err := Python()
	if err != nil {
		python = "python3"
	}
	all := map[string][]string{
		"python":     {python, "-I", "-S"},
		"python-env": {python, "-s", "-E"},
		"bash":       {"bash"},
		"node":       {"node"},
		"binary":     {},
	}
	maps.Copy(all, config)
	for name, command := range all {
		if len(command) == 0 || strings.Contains(command[0], "/") {
			continue
		}
		if path, err := exec.LookPath(command[0]); err == nil {
			all[name] = append([]string{path}, command[1:]...)
		}
	}
	return all
}
