package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"modulate/workerd/sandbox"
)

// Machine is machine.toml: what is particular to one machine. All of it may be
// left out.
//
//	[runtimes]
//	python-env = ["/opt/venv/bin/python"]   # the script's path and arguments follow
//
//	[sandbox]
//	level = "bwrap"              # or "none"; left out: bwrap wherever it works
//	egress = true                # the network, but for private and link-local addresses
//	devices = ["/dev/fuse"]      # device nodes that every script sees
//
//	[[sandbox.mounts]]
//	source = "/srv/datasets"
//	target = "/data"             # left out: where it is on the host
//	writable = false
//
//	[slot]                       # what one script gets; left out: its share of the machine
//	memory = "16GiB"
//	cpu = 4
//	pids = 4096
//	scratch = "8GiB"             # of it, for what the script writes
//
//	[gpus]
//	lend = "each"                # a share to each slot; "shared": all to every script; "none"
//
//	[uv]                         # for scripts that name their dependencies
//	path = "/opt/uv/bin/uv"      # left out: as on PATH
//	cache = "/var/cache/modulate/uv"
//	size = "30GiB"               # of the cache
//
// infra/machine.toml says more.
type Machine struct {
	Runtimes map[string][]string `toml:"runtimes"`
	Sandbox  Sandbox             `toml:"sandbox"`
	Slot     Slot                `toml:"slot"`
	GPUs     GPUs                `toml:"gpus"`
	UV       UV                  `toml:"uv"`
}

// Sandbox is what contains the scripts of a machine.
type Sandbox struct {
	Level   sandbox.Level `toml:"level"`
	Egress  bool          `toml:"egress"`
	Devices []string      `toml:"devices"`
	Mounts  []Mount       `toml:"mounts"`
}

// Mount is a directory or file of the machine that scripts see.
type Mount struct {
	Source   string `toml:"source"`
	Target   string `toml:"target"`
	Writable bool   `toml:"writable"`
}

// Slot is what one script gets. What is 0 is its share of the machine.
type Slot struct {
	Memory  Size    `toml:"memory"`
	CPU     float64 `toml:"cpu"`
	PIDs    int64   `toml:"pids"`
	Scratch Size    `toml:"scratch"`
}

// known says what may stand in machine.toml.
const known = "[runtimes], [sandbox] with level, egress, devices and mounts (source, target, writable), [slot] with memory, cpu, pids and scratch, [gpus] with lend, and [uv] with path, cache and size"

// A Size is a number of bytes: 1048576, "512MiB" or "16GiB".
type Size int64

// units are those of IEC 80000-13.
var units = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// UnmarshalTOML implements toml.Unmarshaler.
func (s *Size) UnmarshalTOML(v any) error {
	text := fmt.Sprint(v)
	number := strings.TrimRight(text, "KMGTiB ")
	unit, ok := units[strings.TrimSpace(text[len(number):])]
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is no size: want bytes, or a number and KiB, MiB, GiB or TiB, as in \"16GiB\"", text)
	}
	*s = Size(n * unit)
	return nil
}

// Read reads machine.toml; "": there is none, and all of it is zero.
func Read(file string) (m Machine, err error) {
	if file == "" {
		return m, nil
	}
	meta, err := toml.DecodeFile(file, &m)
	if err != nil {
		return m, fmt.Errorf("--config: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return m, fmt.Errorf("--config %s: %q is not known; known is %s", file, unknown[0], known)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("--config %s: %w", file, err)
	}
	return m, nil
}

// check refuses what cannot be, and completes the mounts.
func (m *Machine) check() error {
	if command, given := m.Runtimes["python"]; given && len(command) == 0 {
		return errors.New(`runtimes.python is empty: want an interpreter and its flags, as in ["/usr/bin/python3", "-I", "-S"]`)
	}
	box := m.Sandbox
	if levels := []sandbox.Level{"", sandbox.None, sandbox.Bwrap}; !slices.Contains(levels, box.Level) {
		return fmt.Errorf("sandbox.level %q: want bwrap or none", box.Level)
	}
	if box.Level == sandbox.None && (box.Egress || len(box.Mounts) > 0 || len(box.Devices) > 0 || m.Slot != Slot{}) {
		return errors.New(`sandbox.level "none" contains nothing: egress, mounts, devices and [slot] are for bwrap`)
	}
	for i := range box.Mounts {
		mount := &box.Mounts[i]
		if mount.Target == "" {
			mount.Target = mount.Source
		}
		if err := sandbox.Mount(*mount).Check(); err != nil {
			return fmt.Errorf("sandbox.mounts: %w", err)
		}
	}
	for _, node := range box.Devices {
		info, err := os.Stat(node)
		if err != nil || info.Mode()&fs.ModeDevice == 0 || !strings.HasPrefix(node, "/dev/") || path.Clean(node) != node {
			return fmt.Errorf("sandbox.devices: %q is no device here; want one of /dev, as in /dev/fuse", node)
		}
	}
	return errors.Join(m.Slot.check(), m.GPUs.check(), m.UV.check())
}

// The least that a script can run with.
const (
	leastMemory  = 32 << 20 // bytes: an interpreter and a script
	leastScratch = 1 << 20  // bytes
	leastPIDs    = 8
)

func (s Slot) check() error {
	switch {
	case s.Memory != 0 && s.Memory < leastMemory:
		return fmt.Errorf("slot.memory %d: want at least 32MiB", s.Memory)
	case s.CPU < 0 || s.CPU != 0 && s.CPU < 0.01:
		return fmt.Errorf("slot.cpu %v: want a number of cores, at least 0.01", s.CPU)
	case s.PIDs != 0 && s.PIDs < leastPIDs:
		return fmt.Errorf("slot.pids %d: want at least %d", s.PIDs, leastPIDs)
	case s.Scratch != 0 && s.Scratch < leastScratch:
		return fmt.Errorf("slot.scratch %d: want at least 1MiB", s.Scratch)
	case s.Memory != 0 && s.Scratch > s.Memory:
		return fmt.Errorf("slot.scratch %d: what a script writes is kept in its memory, of which it has %d", s.Scratch, s.Memory)
	}
	return nil
}
