package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// controllers are what a Group needs. Under v2 "cpu" counts too.
var controllers = []string{"memory", "pids", "cpu", "cpuacct"}

// groupsDir is the directory of all groups, in each hierarchy.
const groupsDir = "modulate"

// A hierarchy says where cgroups are made: the directory of all groups, for
// each controller. Under v2 it is one, at the top, for a cgroup that holds a
// daemon can have none below it. Under v1 it is below the daemon's own, whose
// limits hold as well.
type hierarchy struct {
	v2     bool
	top    string // the mount, under v2
	parent map[string]string
}

func findHierarchy() (hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchy{}, err
	}
	return parseHierarchy(string(mounts), string(own), func(mount string) string {
		list, _ := os.ReadFile(filepath.Join(mount, "cgroup.controllers")) // none: it has none
		return string(list)
	})
}

// parseHierarchy reads mountinfo and the caller's cgroups, as proc(5) and
// cgroups(7) have them. offered reads the controllers of a v2 mount.
func parseHierarchy(mounts, own string, offered func(mount string) string) (hierarchy, error) {
	paths := map[string]string{} // of the caller, by controller
	for line := range strings.Lines(own) {
		if part := strings.SplitN(strings.TrimSpace(line), ":", 3); len(part) == 3 {
			for c := range strings.SplitSeq(part[1], ",") {
				paths[c] = part[2]
			}
		}
	}
	h := hierarchy{parent: map[string]string{}}
	for line := range strings.Lines(mounts) {
		left, right, _ := strings.Cut(line, " - ")
		at, fs := strings.Fields(left), strings.Fields(right)
		if len(at) < 5 || len(fs) < 3 {
			continue
		}
		root, mount := at[3], at[4]
		switch fs[0] {
		case "cgroup2":
			has := strings.Fields(offered(mount))
			if slices.Contains(has, "memory") && slices.Contains(has, "pids") && slices.Contains(has, "cpu") {
				dir := filepath.Join(mount, groupsDir)
				return hierarchy{v2: true, top: mount, parent: map[string]string{"memory": dir, "pids": dir, "cpu": dir}}, nil
			}
		case "cgroup":
			for option := range strings.SplitSeq(fs[2], ",") {
				if slices.Contains(controllers, option) && h.parent[option] == "" {
					below, ok := strings.CutPrefix(paths[option], strings.TrimSuffix(root, "/"))
					if !ok { // a container may show a part that the caller is not in
						below = ""
					}
					h.parent[option] = filepath.Join(mount, below, groupsDir)
				}
			}
		}
	}
	for _, c := range controllers {
		if h.parent[c] == "" {
			return hierarchy{}, fmt.Errorf("there is no cgroup controller %s here", c)
		}
	}
	return h, nil
}

// dirs are the directories of all groups, each once.
func (h hierarchy) dirs() []string {
	var all []string
	for _, c := range controllers {
		if dir := h.parent[c]; dir != "" && !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// prepare makes the directories of all groups.
func (h hierarchy) prepare() error {
	if h.v2 {
		if err := pass(h.top); err != nil {
			return err
		}
	}
	for _, dir := range h.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if h.v2 {
			if err := pass(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass passes the controllers of a v2 cgroup on to those below it.
func pass(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	has, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, c := range []string{"memory", "pids", "cpu"} {
		if !slices.Contains(strings.Fields(string(has)), c) {
			if err := write(file, "+"+c); err != nil {
				return err
			}
		}
	}
	return nil
}

// A setting is what is written to a file of a group.
type setting struct {
	controller, file, value string
	optional                bool // not every kernel has it
}

// period is that in which a share of the processors is counted, in
// microseconds; the kernel's default.
const period = 100_000

// settings are the limits, as the hierarchy's version has them. The order
// counts: memory without swap is never less than memory with it.
func (h hierarchy) settings(l Limits) []setting {
	number := func(n int64, unlimited string) string {
		if n <= 0 {
			return unlimited
		}
		return strconv.FormatInt(n, 10)
	}
	quota := max(int64(l.CPU*period), 1000) // the least that the kernel takes
	if h.v2 {
		cpu := "max"
		if l.CPU > 0 {
			cpu = strconv.FormatInt(quota, 10)
		}
		return []setting{
			{controller: "memory", file: "memory.max", value: number(l.Memory, "max")},
			{controller: "memory", file: "memory.swap.max", value: "0", optional: true},
			{controller: "pids", file: "pids.max", value: number(l.PIDs, "max")},
			{controller: "cpu", file: "cpu.max", value: fmt.Sprintf("%s %d", cpu, period)},
		}
	}
	if l.CPU <= 0 {
		quota = -1
	}
	return []setting{
		{controller: "memory", file: "memory.limit_in_bytes", value: number(l.Memory, "-1")},
		{controller: "memory", file: "memory.memsw.limit_in_bytes", value: number(l.Memory, "-1"), optional: true},
		{controller: "pids", file: "pids.max", value: number(l.PIDs, "max")},
		{controller: "cpu", file: "cpu.cfs_quota_us", value: strconv.FormatInt(quota, 10)},
	}
}

// oomFile is where the kernel counts its kills.
func (h hierarchy) oomFile() string {
	if h.v2 {
		return "memory.events"
	}
	return "memory.oom_control"
}

// sweep removes the group of that name if nobody has it. The directory with the
// lock goes last, so that one that is not whole is found again.
func (h hierarchy) sweep(name string) error {
	f, err := openLocked(filepath.Join(h.parent[controllers[0]], name), 0)
	if err != nil {
		return nil // it is held, or another was faster
	}
	defer f.Close()
	var errs []error
	for _, dir := range slices.Backward(h.dirs()) {
		errs = append(errs, removeGroup(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}
