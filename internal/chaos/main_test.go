//go:build linux

package chaos

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"modulate/internal/emulator"
	"modulate/workerd/runner"
)

// binEnv names, for the tests, the directory with the built programs.
const binEnv = "CHAOS_BIN"

// TestMain builds the programs once. Called as `TEST role JSON` it is a child
// of a test instead, a part of the system that kills itself at a named point.
func TestMain(m *testing.M) {
	if code, was := runner.BeKeeper(os.Args); was {
		syscall.Exit(code) // not os.Exit, where the race detector waits a second
	}
	if len(os.Args) == 3 && os.Args[1] == "role" {
		os.Exit(play(os.Args[2]))
	}
	flag.Parse()
	bin, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv(binEnv, bin)
	flag.Set("test.parallel", "6") // they wait for leases most of the time
	emulator.Main(m)
	os.RemoveAll(bin)
}

// build returns the directory where it has put the programs.
func build() (bin string, err error) {
	if bin, err = os.MkdirTemp("", "chaos-"); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "modulate/cmd/modulate", "modulate/cmd/modulate-keeper", "modulate/workerd")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building the programs: %w\n%s", err, out), os.RemoveAll(bin))
	}
	return bin, nil
}

// program is the path of a built program.
func program(name string) string { return filepath.Join(os.Getenv(binEnv), name) }
