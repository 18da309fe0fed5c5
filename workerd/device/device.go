// Package device lends the GPUs of a machine to scripts: each to one at a time.
//
// The devices are divided among the worker's slots, in the order of their
// indexes. A slot's share is a [Lease]: the script that runs in the slot is told
// of its devices (CUDA_VISIBLE_DEVICES) and, in a sandbox, gets their nodes and
// no others. When the script is dead the devices are looked at before anybody
// gets them again: as long as one is not empty its slot is quarantined.
//
//	free ─▶ lent ─▶ looked at ─▶ free
//	                    │  ▲
//	                    ▼  │ each minute
//	                quarantined (said once, and once that it is over)
package device

import (
	"context"
	"fmt"
	"strings"
)

// A Device is a GPU, and how it is used at one moment.
type Device struct {
	Index  int    // by the driver's order, that of PCI addresses
	UUID   string // GPU-…: the same after a restart, whatever else is plugged in
	Name   string // of the product
	Minor  int    // of /dev/nvidiaMINOR; -1: not told
	Sliced bool   // in MIG mode: it is used by its slices only

	Memory    int64     // bytes
	Used      int64     // of them
	Processes []Process // that have memory of it, as far as the driver tells; in a container it may tell none
}

// A Process has memory of a device.
type Process struct {
	PID      int
	Name     string
	Graphics bool // it draws and does not compute: a desktop
}

// A Layer is what a machine says of its devices. Its methods may be called from
// any goroutine.
type Layer interface {
	// Look returns the devices of the machine, by index. Without any it returns
	// none and no error; an error means that it cannot be known.
	Look(ctx context.Context) ([]Device, error)
	// Watch tells seen how many bytes of each device are used, every second,
	// until ctx ends or it cannot go on, which is the error. seen is called from
	// one goroutine.
	Watch(ctx context.Context, seen func(uuid string, used int64)) error
}

// What a device may hold and be empty: some of its memory is the driver's own,
// half a GiB of a large one.
const (
	ownMost = 1 << 30   // bytes that are ever taken for the driver's own
	slack   = 256 << 20 // by which they may grow; the smallest context of CUDA is larger
)

// notEmpty says what is on d that a next script would meet; "": nothing. least
// is the least that was ever seen to be used of it. The memory of a device that
// also draws rises and falls with its desktop, so only its processes count.
func (d Device) notEmpty(least int64) string {
	graphics := false
	var held []string
	for _, p := range d.Processes {
		if p.Graphics {
			graphics = true
			continue
		}
		held = append(held, fmt.Sprintf("process %d (%s)", p.PID, p.Name))
	}
	switch {
	case len(held) > 0:
		return fmt.Sprintf("%s still on it, %d MiB of its memory in use", strings.Join(held, ", "), d.Used>>20)
	case !graphics && d.Used > min(least, ownMost)+slack:
		return fmt.Sprintf("%d MiB of its memory still in use, by no process that the driver tells of", d.Used>>20)
	}
	return ""
}

// String is the device for people.
func (d Device) String() string { return fmt.Sprintf("device %d (%s, %s)", d.Index, d.Name, d.UUID) }
