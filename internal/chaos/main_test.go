//go:build linux

package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binEnv names, for the tests, the directory with the built programs.
const binEnv = "CHAOS_BIN"

// TestMain builds the programs once. Called as `TEST role JSON` it is a child
// of a test instead: a part of the system that kills itself at a named point.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "role" {
		os.Exit(play(os.Args[2]))
	}
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	bin, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "modulate/cmd/modulate", "modulate/workerd")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		return 1
	}
	os.Setenv(binEnv, bin)
	flag.Set("test.parallel", "6") // they wait for leases most of the time
	return m.Run()
}

// program is the path of a built program.
func program(name string) string { return filepath.Join(os.Getenv(binEnv), name) }
