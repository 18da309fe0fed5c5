package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"modulate/internal/promise"
)

// Config is all that workerd is told. Each field is a flag, or else the
// variable MODULATE_ and the flag's name in capitals, '-' as '_'.
type Config struct {
	Dir     string        // --dir: the store's directory
	Machine string        // --machine, --group: whose queue to receive from
	Slots   int           // --slots: attempts at once, 1 to 1,000
	Name    string        // --name: no other worker of the store has it
	File    string        // --config: machine.toml, see Machine
	Drain   time.Duration // --drain: how long scripts may go on once it is to stop
	NoSweep bool          // --no-sweep: leave repairs to others
	Verbose bool          // --verbose: log what happens, not only what is wrong
}

// Machine is machine.toml: what is particular to the machine that workerd runs
// on.
//
//	[runtimes]
//	python-env = ["/opt/venv/bin/python"]   # the script's path and arguments follow
type Machine struct {
	Runtimes map[string][]string `toml:"runtimes"`
}

// maxSlots is the most attempts that one daemon runs at once.
const maxSlots = 1000

// flags are the flags of c, with their defaults.
func (c *Config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Dir, "dir", ".modulate", "`DIRECTORY` of the store")
	f.StringVar(&c.Machine, "machine", "cpu", "`NAME` of the machine to work for")
	f.IntVar(&c.Slots, "slots", runtime.NumCPU(), "how many scripts may run at once")
	f.StringVar(&c.Name, "name", "", "`NAME` of this worker, which no other has (default: host, process, machine)")
	f.StringVar(&c.File, "config", "", "`FILE` that describes this machine: machine.toml")
	f.DurationVar(&c.Drain, "drain", 30*time.Second, "how long scripts may go on once it is to stop")
	f.BoolVar(&c.NoSweep, "no-sweep", false, "leave repairs to other processes on the store")
	f.BoolVarP(&c.Verbose, "verbose", "v", false, "log what happens, not only what is wrong")
}

// environment sets the flags that were not given from their variables.
func environment(f *pflag.FlagSet, getenv func(string) string) (err error) {
	f.VisitAll(func(flag *pflag.Flag) {
		name := "MODULATE_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		value := getenv(name)
		if value == "" || flag.Changed || flag.Name == "help" || flag.Name == "version" {
			return
		}
		if set := f.Set(flag.Name, value); set != nil && err == nil {
			err = fmt.Errorf("%s=%q: %w", name, value, set)
		}
	})
	return err
}

// check refuses what cannot be, and fills in the name.
func (c *Config) check() error {
	switch {
	case c.Dir == "":
		return errors.New("--dir is empty: name the store's directory, as in --dir .modulate")
	case !promise.ValidMachine(c.Machine):
		return fmt.Errorf("--machine %q: want a lower-case letter, then at most 39 of a-z, 0-9 and -, as in gpu-a100", c.Machine)
	case c.Slots < 1 || c.Slots > maxSlots:
		return fmt.Errorf("--slots %d: want 1 to %d", c.Slots, maxSlots)
	case c.Drain < 0:
		return fmt.Errorf("--drain %v: want 0 or more, as in 30s", c.Drain)
	case c.Name != "" && !promise.ValidID(c.Name):
		return fmt.Errorf("--name %q: want letters, digits, _ and -, a letter or digit first, at most %d bytes", c.Name, promise.MaxID)
	}
	c.Name = cmp.Or(c.Name, c.ownName())
	return nil
}

// ownName is a name that no other worker has: that of the host, the process
// and the machine.
func (c *Config) ownName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	safe := strings.Map(func(r rune) rune {
		if !promise.ValidID("x" + string(r)) {
			return '-'
		}
		return r
	}, host)
	return fmt.Sprintf("w-%.80s-%d-%s", safe, os.Getpid(), c.Machine)
}

// machine reads machine.toml; without one every part of it is zero.
func (c *Config) machine() (m Machine, err error) {
	if c.File == "" {
		return m, nil
	}
	meta, err := toml.DecodeFile(c.File, &m)
	if err != nil {
		return m, fmt.Errorf("--config: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return m, fmt.Errorf("--config %s: %q is not known; known is [runtimes]", c.File, unknown[0])
	}
	return m, nil
}
