package host

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// ErrLacking marks what is configured and this machine does not have. No script
// runs then: never with less around it than was asked for.
var ErrLacking = errors.New("this machine lacks what machine.toml asks for")

// level is what contains the scripts of m on a machine of which r is known:
// what m says, else bwrap wherever it works. ErrLacking.
func (m Machine) level(r sandbox.Report) (sandbox.Level, error) {
	if m.Sandbox.Level == sandbox.None {
		return sandbox.None, nil
	}
	asks := m.Sandbox.Level == sandbox.Bwrap || m.Sandbox.Egress || len(m.Sandbox.Mounts) > 0 || len(m.Sandbox.Devices) > 0 || m.Slot != Slot{}
	limits := m.Slot.Memory != 0 || m.Slot.CPU != 0 || m.Slot.PIDs != 0
	var lacking []string
	for _, need := range []struct {
		asked bool
		what  string
		has   sandbox.Finding
	}{
		{asks, "a sandbox", r.Sandbox}, {limits, "the limits of [slot]", r.Groups}, {m.Sandbox.Egress, "sandbox.egress", r.Egress},
	} {
		if need.asked && !need.has.OK {
			lacking = append(lacking, need.what+": "+need.has.Text)
		}
	}
	if len(lacking) > 0 {
		return "", fmt.Errorf("%w: %s", ErrLacking, strings.Join(lacking, "; "))
	}
	if !r.Sandbox.OK {
		return sandbox.None, nil
	}
	return sandbox.Bwrap, nil
}

// probe finds out what this machine can do, for the runtimes of m too: a sandbox
// is of no use where one of them cannot be shown in it.
func (m Machine) probe() (r sandbox.Report, runtimes map[string][]string) {
	r, runtimes = sandbox.Probe(), runner.Runtimes(m.Runtimes)
	if r.Sandbox.OK {
		if why := misplaced(runtimes); why != "" {
			r.Sandbox.OK, r.Sandbox.Text = false, why
		}
	}
	return r, runtimes
}

// misplaced says which runtime keeps sandboxes from being used, and what to do;
// "": none does.
func misplaced(runtimes map[string][]string) string {
	if python := runtimes["python"]; len(python) == 0 || !filepath.IsAbs(python[0]) {
		return "sandboxes wait with a Python in them: install python3"
	}
	for _, name := range slices.Sorted(maps.Keys(runtimes)) {
		command := runtimes[name]
		show, _ := prefixes(map[string][]string{name: command})
		for _, dir := range show {
			if own := sandbox.Hides(dir); own != "" {
				return fmt.Sprintf("the runtime %s, %s, needs %s, and each sandbox has a %s of its own: "+
					"name another interpreter under [runtimes] in machine.toml, as in /usr/bin, or show that directory at another place by [[sandbox.mounts]] and name it there",
					name, command[0], dir, own)
			}
		}
	}
	return ""
}

// Examine says what this machine can do, and whether that is all that m asks
// for. ErrLacking.
func Examine(m Machine) ([]sandbox.Finding, error) {
	r, _ := m.probe()
	level, err := m.level(r)
	if err != nil {
		return r.Findings(), err
	}
	text := "scripts run in a sandbox"
	if level == sandbox.None {
		text = "scripts run without a sandbox"
	}
	return append(r.Findings(), sandbox.Finding{Name: "level", OK: true, Text: string(level) + ": " + text}), nil
}
