// Command workerd is the daemon of a machine: it receives from its machine's
// queue, claims, runs scripts, and settles their promises.
//
//	workerd --dir .modulate --machine cpu --slots 2
//
// SIGTERM and Ctrl-C drain it: it receives nothing more, lets scripts go on
// for --drain, and gives the rest back. A second signal does that at once.
//
// SIGHUP hands over: the scripts go on without it, and the next workerd of that
// machine on that spool goes on with them. After any other end, kill -9 too, it
// is the same; without a next one they are killed as their leases end, and start
// elsewhere.
//
//	workerd doctor
//
// prints what this machine can do to contain scripts.
//
// Exit codes: 0 it was stopped; 1 it could not go on; 2 bad input.
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
	timerslack.Widen(os.Args, os.Environ())
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
