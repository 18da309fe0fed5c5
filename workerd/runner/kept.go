package runner

import (
	"errors"
	"os"

	"modulate/workerd/sandbox"
)

// ErrNoKeepers: this machine cannot have keepers: it has no pid namespaces.
// [Exec] runs jobs there.
var ErrNoKeepers = errors.New("keepers cannot be had here")

// KeptConfig says what [OpenKept] needs. Spool is required.
type KeptConfig struct {
	Program string     // the keeper's binary; "": the one beside this binary, or this binary
	Dir     string     // where the jobs' directories are made; "": the system's
	Spool   string     // where each keeper has a folder; an adopter's is the same
	Prefix  string     // what the names of the folders start with: others are left alone
	Path    string     // PATH of scripts; "": DefaultPath
	Ahead   int        // keepers that are kept ready
	Park    []string   // the command of the interpreter that is up before its scripts: in each sandbox, or else one for each keeper, which forks
	Box     *BoxConfig // what each script is in; nil: nothing
	Hold    *os.File   // stays open as long as a keeper lives; nil: nothing
}

// BoxConfig is what the scripts of a [Kept] are in.
type BoxConfig struct {
	Sandbox sandbox.Config
	Cgroups bool // each keeper has one; else there are none
}
