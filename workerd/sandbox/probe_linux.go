package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime bounds each program that Probe asks.
const probeTime = 10 * time.Second

// leastBwrap is the first bubblewrap that sizes a tmpfs and forbids user
// namespaces.
const leastBwrap = "0.8.0"

// Probe finds out what this machine can do, by doing it once: a matter of some
// 20 ms. Nothing of it is left behind.
func Probe() Report {
	root := os.Geteuid() == 0
	r := Report{
		Sandbox: Finding{Name: "sandbox"}, Groups: Finding{Name: "cgroups"}, UIDs: Finding{Name: "uids"}, Egress: Finding{Name: "egress"},
	}
	r.Sandbox.OK, r.Sandbox.Text = told(trial())
	r.Groups.OK, r.Groups.Text = told(probeGroup(root))
	r.UIDs.OK, r.UIDs.Text = told(probeUIDs(root))
	r.Egress.OK, r.Egress.Text = told(probeEgress(root))
	return r
}

func told(text string, err error) (bool, string) {
	if err != nil {
		return false, err.Error()
	}
	return true, text
}

// trial starts a sandbox as a keeper would, but for its Root: that a keeper
// alone can mount, and tells when it begins (runner.OpenKept).
func trial() (string, error) {
	version, err := bwrapVersion()
	if err != nil {
		return "", err
	}
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err == unix.ENOSYS {
		return "", errors.New("this Linux is too old: want 5.12 or later (mount_setattr)") // see Root
	}
	s := Start{Command: []string{"/usr/bin/true"}}
	form := "in a user namespace"
	if os.Geteuid() == 0 {
		if _, err := os.Stat(setpriv); err != nil {
			return "", fmt.Errorf("setpriv is missing: install util-linux (%w)", err)
		}
		uid, err := LeaseUID()
		if err != nil {
			return "", err
		}
		defer uid.Close()
		s.UID, form = uid.Number, "as root"
	}
	start, err := Config{Limits: Limits{Scratch: 1 << 20}}.Command(s)
	if err != nil {
		return "", err
	}
	defer start.Close()
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, start.Path)
	cmd.Args, cmd.Env, cmd.ExtraFiles, cmd.SysProcAttr = start.Argv, start.Env, start.Files, Clone(os.Getuid(), os.Getgid())
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("a sandbox does not start: %w: %s%s", err, short(out.Bytes()), hint())
	}
	return fmt.Sprintf("bubblewrap %s works %s, with seccomp and namespaces", version, form), nil
}

// hint says what most often keeps a user from sandboxes.
func hint() string {
	for file, bad := range map[string]string{
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
		"/proc/sys/kernel/unprivileged_userns_clone":             "0",
		"/proc/sys/user/max_user_namespaces":                     "0",
	} {
		if value, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(value)) == bad {
			return fmt.Sprintf(" (%s is %s, which denies user namespaces: run as root, or change it)", file, bad)
		}
	}
	return ""
}

func bwrapVersion() (string, error) {
	path, err := look("bwrap")
	if err != nil {
		return "", fmt.Errorf("bubblewrap is missing: install it (apt-get install bubblewrap, dnf install bubblewrap)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	version := strings.TrimPrefix(short(out), "bubblewrap ")
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	if older(version, leastBwrap) {
		return "", fmt.Errorf("bubblewrap %s is too old: want %s or later", version, leastBwrap)
	}
	return version, nil
}

// older compares versions of three numbers.
func older(a, b string) bool {
	var x, y [3]int
	fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]) // what is no number counts as 0
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

func probeGroup(root bool) (string, error) {
	at, err := findHierarchy()
	if err != nil {
		return "", fmt.Errorf("no limits of memory, processes and processors: %w", err)
	}
	g, err := OpenGroup("probe-"+strconv.FormatUint(rand.Uint64(), 36), Limits{Memory: 1 << 30, PIDs: 64, CPU: 1})
	if err == nil {
		err = g.Close()
	}
	if err != nil {
		if !root {
			return "", fmt.Errorf("no limits of memory, processes and processors: they are root's to set (%w)", err)
		}
		return "", err
	}
	version := 1
	if at.v2 {
		version = 2
	}
	return fmt.Sprintf("memory, pids and cpu, by cgroup v%d in %s", version, at.parent["memory"]), nil
}

func probeUIDs(root bool) (string, error) {
	if !root {
		return "", fmt.Errorf("scripts run as this user, in a user namespace: only root has uids to give")
	}
	uid, err := LeaseUID()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d to %d, one for each script", FirstUID, LastUID), uid.Close()
}
