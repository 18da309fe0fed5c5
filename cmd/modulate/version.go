package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			return a.print(versionText(info) + "\n")
		},
	}
}

// versionText is the version as the build tells it: the module's, or the
// commit it was built from. info may be nil.
func versionText(info *debug.BuildInfo) string {
	version, commit, at, dirty := "unknown", "", "", ""
	if info != nil {
		if version = info.Main.Version; version == "" || version == "(devel)" {
			version = "devel"
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = " " + s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.time":
				at = " of " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", changed since"
			}
		}
	}
	return fmt.Sprintf("modulate %s%s%s%s (%s, %s/%s)", version, commit, at, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
