package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"modulate/workerd/device"
	"modulate/workerd/sandbox"
)

// How GPUs are lent.
const (
	lendEach   = "each"   // a share of them to each slot
	lendShared = "shared" // all of them to every script
	lendNone   = "none"
)

// GPUs are machine.toml's words about the machine's GPUs.
type GPUs struct {
	Lend string `toml:"lend"` // each, shared or none; "": each, where there are some
}

func (g GPUs) check() error {
	if !slices.Contains([]string{"", lendEach, lendShared, lendNone}, g.Lend) {
		return fmt.Errorf("gpus.lend %q: want each, shared or none", g.Lend)
	}
	return nil
}

// Devices are the GPUs of a machine as its machine.toml lends them.
type Devices struct {
	layer   device.Layer
	found   []device.Device
	shared  bool
	spare   bool // nobody has asked for them by name: without them is well too
	access  device.Access
	lacking error // what a sandbox could not show
}

// Devices looks for the GPUs of this machine. Where machine.toml says nothing,
// none are no error.
func (m Machine) Devices(ctx context.Context, log *slog.Logger) (d Devices, err error) {
	if m.GPUs.Lend == lendNone {
		return d, nil
	}
	if m.GPUs.Lend == lendShared {
		return m.SharedDevices(ctx), nil
	}
	layer, ok := device.Find()
	if ok {
		if d.found, err = layer.Look(ctx); err != nil {
			return d, fmt.Errorf(`%w; with gpus.lend = "none" in machine.toml scripts run without`, err)
		}
	}
	d.layer = layer
	d.found = slices.DeleteFunc(d.found, func(f device.Device) bool {
		if f.Sliced {
			log.Warn("a device is in MIG mode, which is not supported: it is lent to nobody", "device", f.UUID, "index", f.Index)
		}
		return f.Sliced
	})
	if m.GPUs.Lend == lendEach && len(d.found) == 0 {
		return d, errors.New(`gpus.lend is "each" in machine.toml, and nvidia-smi tells of no device that could be lent`)
	}
	d.findAccess(ctx)
	return d, nil
}

// OwnDevices are Devices of a machine that runs more than scripts, a
// developer's: where machine.toml says nothing of GPUs, those that cannot be
// lent are none, and that is said. Where nvidia-smi is not there they are
// shared.
func (m Machine) OwnDevices(ctx context.Context, log *slog.Logger) (Devices, error) {
	if m.GPUs.Lend != "" {
		return m.Devices(ctx, log)
	}
	if _, ok := device.Find(); !ok {
		return m.SharedDevices(ctx), nil
	}
	d, err := m.Devices(ctx, log)
	if err != nil {
		log.Warn("scripts get no GPU", "error", err)
		return Devices{}, nil
	}
	d.spare = true
	return d, nil
}

// SharedDevices are Devices where every script gets all GPUs, unless
// machine.toml lends none.
func (m Machine) SharedDevices(ctx context.Context) Devices {
	d := Devices{shared: true}
	if m.GPUs.Lend != lendNone {
		d.found = device.Present()
	}
	d.findAccess(ctx)
	return d
}

func (d *Devices) findAccess(ctx context.Context) {
	if len(d.found) > 0 {
		d.access, d.lacking = device.FindAccess(ctx)
	}
}

// Slots is how many scripts the devices are for where nobody says; 0: as many
// as one likes.
func (d Devices) Slots() int {
	if d.shared {
		return 0
	}
	return len(d.found)
}

// libraries are the directories that scripts must see to use the devices.
func (d Devices) libraries() []string { return d.access.Libraries }

// Pool lends them among slots, to scripts that are contained at level; nil:
// there are none. What nobody has asked for by name and cannot be shown in a
// sandbox is none, for most scripts ask for no GPU. device.ErrFew.
func (d Devices) Pool(slots int, level sandbox.Level, log *slog.Logger) (*device.Pool, error) {
	if len(d.found) == 0 {
		return nil, nil
	}
	if level != sandbox.None && d.lacking != nil {
		if d.shared || d.spare {
			log.Warn("scripts get no GPU: they could not use it in a sandbox", "error", d.lacking)
			return nil, nil
		}
		return nil, fmt.Errorf("scripts could not use the GPUs in a sandbox: %w", d.lacking)
	}
	return device.New(device.Config{
		Layer: d.layer, Devices: d.found, Slots: slots, Shared: d.shared, Access: d.access, Log: log,
	})
}
