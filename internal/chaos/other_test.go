//go:build !linux

package chaos

import (
	"os"
	"testing"
)

// The tests read /proc and wait by pidfd and inotify. With CI=1 not to run them
// is a failure, as every skip is.
func TestChaosNeedsLinux(t *testing.T) {
	const reason = "processes are looked at by /proc, pidfd and inotify, which only Linux has"
	if os.Getenv("CI") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
