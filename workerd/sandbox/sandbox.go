// Package sandbox is what contains a script: the command that starts one
// sandbox, the cgroup around it, the uid of its own, the rules for its network,
// and what of all that a machine can do. It starts no script and knows no
// promise; keepers are linked with it, so that it stays small.
//
// Inside, a script sees
//
//	/usr /bin /lib…     as the host has them, read-only; a few files of /etc
//	/job/work           its directory and HOME
//	/job/output         MODULATE_OUTPUT
//	/job/tmp            TMPDIR; /tmp and /var/tmp lead there
//	/run/modulate       the directory of MODULATE_SOCKET
//	/opt/modulate/bin   the command modulate
//	/dev /proc          of its own
//
// and what the operator has declared. /job is one tmpfs of [Limits.Scratch].
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

// A Level says what contains a script.
type Level string

// The levels.
const (
	None  Level = "none"  // nothing: a process of the worker's own user
	Bwrap Level = "bwrap" // bubblewrap, seccomp, cgroups; see the package comment
)

// The paths in a sandbox.
const (
	ScratchDir = "/job"
	WorkDir    = "/job/work"
	OutputDir  = "/job/output"
	TempDir    = "/job/tmp"
	SocketDir  = "/run/modulate"
	BinDir     = "/opt/modulate/bin"
)

// The uids of scripts: above those that distributions give to users, to their
// subordinate ids (login.defs: SUB_UID_MAX 600,100,000) and to containers
// (systemd's UIDS-GIDS: up to 1,879,048,191), below 2^31. Each has a group of
// the same number.
const (
	FirstUID = 1_900_000_000
	LastUID  = FirstUID + 4095
)

// Path is the PATH of scripts in a sandbox.
const Path = BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config is what every sandbox of a machine is like. It is plain data, which a
// daemon hands to its keepers.
type Config struct {
	Level    Level
	Egress   bool     // the host's network, but for what [Egress] refuses; false: none at all
	Prefixes []string // directories of interpreters that lie outside of /usr, seen read-only at the same path
	Mounts   []Mount
	Devices  []string // device nodes, such as /dev/nvidia0
	CLI      string   // the command modulate, for scripts that submit; "": they do without
	Limits   Limits   // of one script
}

// A Mount is a directory or file of the host that scripts see.
type Mount struct {
	Source   string // on the host, absolute
	Target   string // in the sandbox, absolute
	Writable bool
}

// Limits bound one script and all that it starts. 0: not bounded.
type Limits struct {
	Memory  int64   // bytes; what it writes to /job counts too
	CPU     float64 // cores
	PIDs    int64   // processes and threads
	Scratch int64   // bytes in /job, and as many in /dev/shm
}

// reserved are the paths of a sandbox that no mount may hide, with all that is
// below them, and those above which none may lie.
var reserved = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/dev", "/sys", "/tmp", "/var/tmp",
	ScratchDir, SocketDir, BinDir,
}

// Hides returns the directory of its own by which a sandbox hides what the host
// has at p; "": it can be shown there.
func Hides(p string) string {
	for _, dir := range []string{"/proc", "/dev", "/tmp", "/var/tmp", ScratchDir, SocketDir, BinDir} {
		if within(p, dir) {
			return dir
		}
	}
	return ""
}

// Check refuses a mount that cannot be.
func (m Mount) Check() error {
	for _, named := range [][2]string{{"source", m.Source}, {"target", m.Target}} {
		what, p := named[0], named[1]
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			return fmt.Errorf("%s %q: want an absolute path without . and .., as in /data", what, p)
		}
	}
	for _, r := range reserved {
		if within(m.Target, r) || within(r, m.Target) {
			return fmt.Errorf("target %q: %s is the sandbox's own; want another place, as in /data", m.Target, r)
		}
	}
	if _, err := os.Stat(m.Source); err != nil {
		return fmt.Errorf("source %q: %w", m.Source, errors.Unwrap(err))
	}
	return nil
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// A Start is one sandbox to be started.
type Start struct {
	UID     int        // of the script, from LeaseUID; 0: the caller's own, for callers that are not root
	Socket  string     // host directory that is SocketDir inside; "": none
	Root    string     // where a Root shows what this sandbox is to show; "": all of it is mounted for this one
	Command []string   // what runs: an absolute path and its arguments
	Env     []string   // NAME=value, all of it; a PWD is added
	Files   []*os.File // its descriptors 3, 4, …
	Block   *os.File   // nothing runs until a byte can be read here; nil: at once
	Info    *os.File   // gets a JSON object with the number "child-pid"; nil: nobody asks
}

// A Command starts a sandbox: its process is bubblewrap's outer one. Close it
// once the process is started.
type Command struct {
	Path  string
	Argv  []string
	Env   []string   // of bubblewrap itself, which others may read: empty
	Files []*os.File // its descriptors 3, 4, …
	own   []*os.File
}

// Close closes what was opened for the start.
func (c *Command) Close() error {
	var errs []error
	for _, f := range c.own {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
