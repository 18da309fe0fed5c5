package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"modulate/workerd/runner"
)

// TestMain makes the command, and the programs that its scripts need, commands
// of the scripts. The command starts this binary as a keeper.
func TestMain(m *testing.M) {
	if code, was := runner.BeKeeper(os.Args); was {
		syscall.Exit(code) // not os.Exit, where the race detector waits a second
	}
	testscript.Main(m, map[string]func(){
		"modulate": main,
		"exits":    exits,
		"onpty":    onPTY,
	})
}

// exits is `exits CODE COMMAND...`: it runs the command and succeeds if that
// ends with the code. It passes interrupts on.
func exits() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "exits: want CODE COMMAND...")
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	err = cmd.Start()
	if err == nil {
		go func() {
			for sig := range interrupts {
				cmd.Process.Signal(sig)
			}
		}()
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "exits:", err)
		os.Exit(2)
	}
	if got != want {
		fmt.Fprintf(os.Stderr, "exits: the exit code is %d, want %d\n", got, want)
		os.Exit(1)
	}
}

// TestScript runs testdata: what a person types, and what comes of it.
func TestScript(t *testing.T) {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	cli, err := exec.LookPath("modulate") // TestMain's
	if err != nil {
		t.Fatal(err)
	}
	// The scripts talk to their tests by files, which a sandbox would not show;
	// testdata/sandbox.txtar has one.
	open := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(open, []byte("[sandbox]\nlevel = 'none'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	aws := newFakeAWS(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("EXAMPLES", examples)
			env.Setenv("CLI", cli)
			env.Setenv("MODULATE_CONFIG", open)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("FAKEAWS", aws.url)
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true") // nobody is asked who this machine is
			env.Setenv("AWS_MAX_ATTEMPTS", "1")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second at each end, otherwise
			return nil
		},
	})
}
