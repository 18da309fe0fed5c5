package runner

import (
	"errors"
	"os"
)

// ErrNoKeepers: this machine cannot have keepers: it has no pid namespaces.
// [Exec] runs jobs there.
var ErrNoKeepers = errors.New("keepers cannot be had here")

// KeptConfig says what [OpenKept] needs. Spool is required.
type KeptConfig struct {
	Program string   // the keeper's binary; "": the one beside this binary, or this binary
	Dir     string   // where the jobs' directories are made; "": the system's
	Spool   string   // where each keeper has a folder; an adopter's is the same
	Machine string   // whose jobs are adopted: those of other machines are left
	Path    string   // PATH of scripts; "": DefaultPath
	Ahead   int      // keepers that are kept ready
	Hold    *os.File // stays open as long as a keeper lives; nil: nothing
}

// FolderPrefix is what the names of the folders of a machine's keepers start
// with.
func FolderPrefix(machine string) string { return "k." + machine + "." }
