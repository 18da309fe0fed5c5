// Command modulate is the CLI of Modulate, and `dev`, all of it in one
// process. It talks to the HTTP API: of a server that is named or found, or
// else of the store in the current directory, served in this process.
//
//	stdout   what was asked for: an id, a script's output, a promise
//	stderr   everything else, in lines that start with "modulate: "
//
// exit.go holds the exit codes, root.go the commands.
package main

import (
	"context"
	"os"

	"modulate/workerd/runner"
	"modulate/workerd/timerslack"
)

func main() {
	if code, was := runner.BeKeeper(os.Args); was {
		os.Exit(code)
	}
	os.Exit(program{
		args: os.Args[1:], getenv: os.LookupEnv,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		server: func() { timerslack.Widen(os.Args, os.Environ()) },
	}.run(context.Background()))
}
