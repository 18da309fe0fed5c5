package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"modulate/internal/account"
	"modulate/internal/promise"
)

// Config is all that workerd is told. Each field is a flag, or else the
// variable MODULATE_ and the flag's name in capitals, '-' as '_'. Either Dir or
// Stage says where it works.
type Config struct {
	Dir     string        // --dir: the store's directory
	Stage   string        // --stage: of an AWS account, instead of a directory
	Bucket  string        // --bucket: of the stage; "": the one that its stack makes
	URL     string        // --url: of the stage's API, for scripts that submit; "": they cannot
	Spool   string        // --spool: directory for outcomes that wait for the stage's store
	Machine string        // --machine, --group: whose queue to receive from
	Slots   int           // --slots: attempts at once, 1 to 1,000; not given: one for each GPU, else for each processor
	Name    string        // --name: no other worker of the store has it
	File    string        // --config: machine.toml, see host.Machine
	Drain   time.Duration // --drain: how long scripts may go on once it is to stop
	Health  string        // --health: loopback address to tell its health and metrics at; "": nowhere
	Notices bool          // --notices: ask the instance's metadata whether it is to go away
	NoSweep bool          // --no-sweep: leave repairs to others
	Log     string        // --log: text or json
	Gateway string        // --gateway: loopback address that serves programs with a Resonate SDK, instead of running scripts
	Verbose bool          // --verbose: log what happens, not only what is wrong

	slotsGiven bool
}

// maxSlots is the most attempts that one daemon runs at once.
const maxSlots = 1000

// flags are the flags of c, with their defaults.
func (c *Config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Dir, "dir", ".modulate", "`DIRECTORY` of the store")
	f.StringVar(&c.Stage, "stage", "", "`STAGE` of an AWS account to work for, instead of a directory")
	f.StringVar(&c.Bucket, "bucket", "", "`BUCKET` of the stage (default modulate-STAGE-ACCOUNT-REGION)")
	f.StringVar(&c.URL, "url", "", "`URL` of the stage's API, for scripts that submit others; without it they cannot")
	f.StringVar(&c.Spool, "spool", "", "`DIRECTORY` for outcomes while AWS is away (default /var/lib/modulate for root, else ~/.local/state/modulate)")
	f.StringVar(&c.Machine, "machine", "cpu", "`NAME` of the machine to work for")
	f.IntVar(&c.Slots, "slots", runtime.NumCPU(), "how many scripts may run at once; where there are GPUs, one for each")
	f.StringVar(&c.Name, "name", "", "`NAME` of this worker, which no other has (default: host, process, machine)")
	f.StringVar(&c.File, "config", "", "`FILE` that describes this machine: machine.toml")
	f.DurationVar(&c.Drain, "drain", 30*time.Second, "how long scripts may go on once it is to stop")
	f.StringVar(&c.Health, "health", "", "loopback `ADDRESS` that serves /healthz, /readyz and /metrics, such as 127.0.0.1:9460")
	f.BoolVar(&c.Notices, "notices", false, "drain when AWS says that this instance is to go away (asks its metadata every 5 s)")
	f.BoolVar(&c.NoSweep, "no-sweep", false, "leave repairs to other processes on the store")
	f.StringVar(&c.Gateway, "gateway", "", "loopback `ADDRESS`, such as 127.0.0.1:8001, to serve programs with a Resonate SDK at, with --stage and --url; no script runs then")
	f.StringVar(&c.Log, "log", "text", "`FORMAT` of the log: text or json, a line each")
	f.BoolVarP(&c.Verbose, "verbose", "v", false, "log what happens, not only what is wrong")
}

// settle completes c from the environment and checks it.
func (c *Config) settle(f *pflag.FlagSet, getenv func(string) string) error {
	typed := make(map[string]bool)
	f.Visit(func(flag *pflag.Flag) { typed[flag.Name] = true })
	if err := environment(f, getenv); err != nil {
		return err
	}
	if err := agree(f, typed); err != nil {
		return err
	}
	c.slotsGiven = f.Changed("slots")
	return c.check()
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

// agree refuses flags of which one would be in vain. A variable may be there
// for another program; only those that say where to work must agree too.
func agree(f *pflag.FlagSet, typed map[string]bool) error {
	stage := f.Lookup("stage").Value.String() != ""
	switch {
	case stage && f.Changed("dir"):
		return errors.New("--dir and --stage (MODULATE_DIR, MODULATE_STAGE) exclude each other: a worker works for a directory or for a stage on AWS")
	case stage && typed["no-sweep"]:
		return errors.New("--no-sweep is for a directory: on AWS the stage's sweeper repairs")
	case stage:
		return nil
	}
	for _, name := range []string{"bucket", "url", "spool"} {
		if typed[name] {
			return fmt.Errorf("--%s is for a stage on AWS: give --stage too, or leave it out", name)
		}
	}
	return nil
}

// check refuses what cannot be, and fills in the name.
func (c *Config) check() error {
	switch {
	case c.Dir == "":
		return errors.New("--dir is empty: name the store's directory, as in --dir .modulate")
	case c.Stage != "" && !account.ValidStage(c.Stage):
		return fmt.Errorf("--stage %q: want a lower-case letter, then at most 15 of a-z and 0-9, and neither dlq nor sdk", c.Stage)
	case !promise.ValidMachine(c.Machine):
		return fmt.Errorf("--machine %q: want a lower-case letter, then at most 39 of a-z, 0-9 and -, as in gpu-a100", c.Machine)
	case c.Slots < 1 || c.Slots > maxSlots:
		return fmt.Errorf("--slots %d: want 1 to %d", c.Slots, maxSlots)
	case c.Drain < 0:
		return fmt.Errorf("--drain %v: want 0 or more, as in 30s", c.Drain)
	case c.Log != "text" && c.Log != "json":
		return fmt.Errorf("--log %q: want text or json", c.Log)
	case c.Name != "" && !promise.ValidID(c.Name):
		return fmt.Errorf("--name %q: want letters, digits, _ and -, a letter or digit first, at most %d bytes", c.Name, promise.MaxID)
	}
	if err := checkURL(c.URL); err != nil {
		return err
	}
	if err := checkLoopback("health", c.Health); err != nil {
		return err
	}
	if err := checkLoopback("gateway", c.Gateway); err != nil {
		return err
	}
	if c.Gateway != "" && (c.Stage == "" || c.URL == "") {
		return errors.New("--gateway needs --stage and --url: `modulate dev` serves such programs for a directory")
	}
	c.Name = cmp.Or(c.Name, c.ownName())
	return nil
}

func checkURL(s string) error {
	if u, err := url.Parse(s); s != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("--url %q: want the output Url of the stage's stack, as in https://abc.execute-api.us-east-1.amazonaws.com", s)
	}
	return nil
}

// checkLoopback refuses an address that others could reach: who asks there is
// not asked who it is.
func checkLoopback(flag, s string) error {
	if s == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(s)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--%s %q: want a loopback address and a port, as in 127.0.0.1:9460", flag, s)
	}
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

// spoolDir is where outcomes are kept while AWS is away. What one worker has
// left another of this user settles, so each user has its own.
func (c *Config) spoolDir(user int, getenv func(string) string) (string, error) {
	if c.Spool != "" {
		return c.Spool, nil
	}
	if user == 0 {
		return "/var/lib/modulate", nil
	}
	if state := getenv("XDG_STATE_HOME"); filepath.IsAbs(state) { // XDG Base Directory Specification
		return filepath.Join(state, "modulate"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("--spool is missing, and HOME is not set: name a directory that outlives this process, as in --spool /var/lib/modulate")
	}
	return filepath.Join(home, ".local", "state", "modulate"), nil
}
