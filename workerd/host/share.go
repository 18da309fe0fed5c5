package host

import (
	"cmp"
	"runtime"

	"modulate/workerd/sandbox"
)

// The part of a machine that is left to the system and to the daemon, and
// what a script gets of its own memory to write to.
const (
	reserve      = 10 // a tenth of the memory
	scratchShare = 2  // a half
	pidsPerCore  = 256
	leastShare   = 1024 // processes and threads
)

// config is what contains the scripts of m at level, where slots of them run
// at once.
func (m Machine) config(level sandbox.Level, slots int) sandbox.Config {
	c := sandbox.Config{Level: level, Egress: m.Sandbox.Egress, Devices: m.Sandbox.Devices}
	for _, mount := range m.Sandbox.Mounts {
		c.Mounts = append(c.Mounts, sandbox.Mount(mount))
	}
	c.Limits = m.Slot.share(totalMemory(), runtime.NumCPU(), max(slots, 1))
	return c
}

// share completes s by what a machine has for each of its slots. memory is in
// bytes; 0: nobody knows.
func (s Slot) share(memory int64, cores, slots int) sandbox.Limits {
	l := sandbox.Limits{
		Memory: cmp.Or(int64(s.Memory), (memory-memory/reserve)/int64(slots)),
		CPU:    cmp.Or(s.CPU, float64(cores)/float64(slots)),
	}
	l.PIDs = cmp.Or(s.PIDs, max(leastShare, int64(l.CPU*pidsPerCore)))
	l.Scratch = cmp.Or(int64(s.Scratch), l.Memory/scratchShare)
	return l
}
