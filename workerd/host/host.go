// Package host is what one machine offers to the scripts that run on it: the
// interpreters, and what contains them. It reads machine.toml and makes of it
// the Runner and the Runtimes of a worker; workerd, `modulate dev` and the
// CLI's own executions are wired here alike.
package host

import (
	"errors"
	"fmt"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// Options say how a machine is used.
type Options struct {
	Slots int // attempts at once, of all workers that share the Host; 1 when 0
}

// A Host is this machine, ready to run scripts. It is shared by the workers of
// one process.
type Host struct {
	Runner   runner.Runner
	Runtimes map[string][]string // name to command; see runner.Job.Command
	Temp     string              // directory for sockets
	Sandbox  sandbox.Config      // what contains the scripts

	jobs *runner.Workplace
}

// Open makes this machine ready. What m asks for and this machine lacks is an
// error: scripts never run with less around them than was configured.
func Open(m Machine, o Options) (*Host, error) {
	if m.Sandbox.Level == sandbox.Bwrap {
		return nil, errors.New(`sandbox.level "bwrap" is configured, and this build runs no script in it`)
	}
	jobs, err := runner.OpenWorkplace("")
	if err != nil {
		return nil, err
	}
	return &Host{
		Runner:   runner.Exec{Dir: jobs.Dir, Spares: &runner.Spares{}},
		Runtimes: runner.Runtimes(m.Runtimes),
		Temp:     jobs.Dir,
		Sandbox:  m.config(sandbox.None, o.Slots),
		jobs:     jobs,
	}, nil
}

// Contains says what contains the scripts, for the line that tells of a start.
func (h *Host) Contains() string {
	if h.Sandbox.Level == sandbox.None {
		return "no sandbox"
	}
	return fmt.Sprintf("sandbox %s", h.Sandbox.Level)
}

// Close gives up what Open took. No script runs any more.
func (h *Host) Close() error { return h.jobs.Close() }
