package host

import (
	"errors"
	"fmt"
	"strings"

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

// Examine says what this machine can do, and whether that is all that m asks
// for. ErrLacking.
func Examine(m Machine) ([]sandbox.Finding, error) {
	r := sandbox.Probe()
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
