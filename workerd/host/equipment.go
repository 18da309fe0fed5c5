package host

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"modulate/workerd/sandbox"
	"modulate/workerd/uv"
)

// Equipment says what this machine has for scripts beside what contains them:
// GPUs, and environments for those that name their dependencies. A finding that
// is not OK is one that m asks for.
func Equipment(ctx context.Context, m Machine) []sandbox.Finding {
	quiet := slog.New(slog.DiscardHandler)
	gpus := sandbox.Finding{Name: "gpus", OK: true, Text: "none: nvidia-smi is not here, or tells of none"}
	devices, err := m.Devices(ctx, quiet)
	var names []string
	for _, d := range devices.found {
		names = append(names, d.String())
	}
	switch {
	case err != nil:
		gpus.OK, gpus.Text = false, err.Error()
	case m.GPUs.Lend == lendNone:
		gpus.Text = `none: gpus.lend = "none"`
	case devices.lacking != nil:
		gpus.OK, gpus.Text = false, fmt.Sprintf("%s; not for a sandbox: %v", strings.Join(names, ", "), devices.lacking)
	case len(names) > 0:
		gpus.Text = strings.Join(names, ", ")
	}
	environments := sandbox.Finding{Name: "uv", OK: true}
	path, err := uv.Find(m.UV.Path)
	dir, homeless := m.UV.dir()
	switch {
	case err != nil:
		environments.OK, environments.Text = m.UV == (UV{}), err.Error()+"; scripts that name their dependencies do not run without"
	case homeless != nil:
		environments.OK, environments.Text = false, homeless.Error()
	default:
		environments.Text = path + ", environments in " + dir
	}
	return []sandbox.Finding{gpus, environments}
}
