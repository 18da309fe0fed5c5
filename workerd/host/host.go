// Package host is what one machine offers to the scripts that run on it: the
// interpreters, and what contains them. It reads machine.toml and makes of it
// the Runner and the Runtimes of a worker; workerd, `modulate dev` and the
// CLI's own executions are wired here alike.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"modulate/internal/spool"
	"modulate/workerd/device"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
	"modulate/workerd/uv"
)

// Options say how a machine is used.
type Options struct {
	Slots   int          // attempts at once, of all workers that share the Host; 1 when 0
	Devices Devices      // the GPUs, see Machine.Devices, OwnDevices and SharedDevices
	Lent    int          // of the slots, those among which the GPUs are divided; all when 0
	Log     *slog.Logger // nil: discarded
}

// A Plan is what contains the scripts of a machine, and how its runtimes are
// called in there.
type Plan struct {
	Sandbox  sandbox.Config
	Runtimes map[string][]string // name to command; see runner.Job.Command
	Groups   bool                // each is in a cgroup
	Missing  string              // of what could contain them, and why; "": nothing
}

// Plan finds out what this machine can do, and what of that contains the
// scripts of m where slots of them run at once. It removes what killed keepers
// have left, and where scripts have the network it makes the rules that keep
// them from private addresses. ErrLacking.
func (m Machine) Plan(slots int) (Plan, error) {
	if m.Sandbox.Level == sandbox.None {
		return Plan{Sandbox: sandbox.Config{Level: sandbox.None}, Runtimes: runner.Runtimes(m.Runtimes)}, nil
	}
	r, runtimes := m.probe()
	p := Plan{Runtimes: runtimes}
	level, err := m.level(r)
	if err != nil {
		return Plan{}, err
	}
	p.Sandbox = m.config(level, slots)
	if level == sandbox.None {
		p.Missing = r.Sandbox.Text
		return p, nil
	}
	if p.Groups = r.Groups.OK; !p.Groups {
		p.Missing = "no limits of memory, processes and processors: doctor says why"
		p.Sandbox.Limits = sandbox.Limits{Scratch: p.Sandbox.Limits.Scratch}
	}
	if p.Groups {
		if err := sandbox.SweepGroups(); err != nil {
			return Plan{}, fmt.Errorf("removing the cgroups of keepers that are gone: %w", err)
		}
	}
	if p.Sandbox.Egress {
		if err := sandbox.Egress(context.Background()); err != nil {
			return Plan{}, fmt.Errorf("%w: %w", ErrLacking, err)
		}
	}
	p.Sandbox.Prefixes, p.Runtimes = prefixes(p.Runtimes)
	p.Sandbox.CLI = findCLI()
	return p, nil
}

// findCLI looks for the command modulate: it is what runs, or lies beside it.
// "": there is none.
func findCLI() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	beside := filepath.Join(filepath.Dir(self), "modulate")
	if info, err := os.Stat(beside); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return beside
}

// A Host is this machine, ready to run scripts. It is shared by the workers of
// one process.
type Host struct {
	Runtimes map[string][]string // name to command; see runner.Job.Command
	Sandbox  sandbox.Config      // what contains the scripts
	GPUs     *device.Pool        // nil: none
	// Environments are those of scripts that name their dependencies; nil: there
	// is no uv here.
	Environments *uv.Cache
	Missing      string // see Plan

	plan Plan
	jobs *runner.Workplace
}

// Open makes this machine ready. What m asks for and this machine lacks is an
// error: scripts never run with less around them than was configured.
// device.ErrFew.
func Open(m Machine, o Options) (*Host, error) {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	plan, err := m.Plan(o.Slots)
	if err != nil {
		return nil, err
	}
	h := &Host{Runtimes: plan.Runtimes, Sandbox: plan.Sandbox, Missing: plan.Missing, plan: plan}
	if err := h.equip(m, o); err != nil {
		return nil, err
	}
	if h.jobs, err = runner.OpenWorkplace(""); err != nil {
		return nil, err
	}
	return h, nil
}

// equip gives scripts the machine's GPUs, and environments.
func (h *Host) equip(m Machine, o Options) (err error) {
	if h.GPUs, err = o.Devices.Pool(max(cmp.Or(o.Lent, o.Slots), 1), h.Sandbox.Level, o.Log); err != nil {
		return err
	}
	h.Sandbox.Prefixes = append(h.Sandbox.Prefixes, o.Devices.libraries()...)
	h.Environments, err = m.UV.environments(h.Runtimes["python"][0], h.Sandbox.Level, o.Log)
	if h.Environments != nil {
		h.Sandbox.Prefixes = append(h.Sandbox.Prefixes, h.Environments.Dir())
	}
	return err
}

// A Worker is for whom a [Host] makes a runner.
type Worker struct {
	Machine string // "": its scripts end with its process
	Spool   string // its folder
	Slots   int
}

// few is how many sandboxes are kept ready beyond those that may be asked for
// at once, so that the next find one while the last are being replaced; most
// is how many at most.
const few, most = 2, 64

// Runner returns what runs the scripts of w; close ends what is idle of it.
// Where this system has no keepers, scripts are processes of this one.
func (h *Host) Runner(w Worker) (run runner.Runner, close func() error, err error) {
	cfg := runner.KeptConfig{Dir: h.jobs.Dir, Spool: w.Spool, Prefix: spool.Keepers(w.Machine), Hold: h.jobs.Lock(), Ahead: min(w.Slots, most)}
	if h.Sandbox.Level != sandbox.None || w.Machine != "" { // one script alone would wait longer for what forks for it
		cfg.Park = h.Runtimes["python"]
	}
	if h.Sandbox.Level != sandbox.None {
		cfg.Box = &runner.BoxConfig{Sandbox: h.Sandbox, Cgroups: h.plan.Groups}
		cfg.Ahead = min(w.Slots+few, most)
	}
	kept, err := runner.OpenKept(cfg)
	switch {
	case err == nil:
		return kept, kept.Close, nil
	case h.Sandbox.Level != sandbox.None || !errors.Is(err, runner.ErrNoKeepers):
		return nil, nil, err
	}
	spares := &runner.Spares{}
	return runner.Exec{Dir: h.jobs.Dir, Spares: spares}, spares.Close, nil
}

// Contains says what contains the scripts, and what could and does not, for the
// line that tells of a start.
func (h *Host) Contains() string {
	text := "no sandbox"
	if h.Sandbox.Level != sandbox.None {
		text = fmt.Sprintf("sandbox %s", h.Sandbox.Level)
	}
	if h.Missing != "" {
		text += fmt.Sprintf(" (%s)", h.Missing)
	}
	return text
}

// Close gives up what Open took. No script runs any more.
func (h *Host) Close() error { return h.jobs.Close() }
