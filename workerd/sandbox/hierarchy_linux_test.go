package sandbox

import (
	"maps"
	"strings"
	"testing"
)

func TestHierarchy(t *testing.T) {
	const (
		v1 = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
		v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	)
	part := strings.ReplaceAll(v1, " / /sys/fs/cgroup/", " /docker/c1 /sys/fs/cgroup/") // what a container sees
	const all = "cpuset cpu io memory hugetlb pids rdma misc"
	at := func(memory, cpu, pids string) map[string]string {
		return map[string]string{"memory": memory, "cpu": cpu, "cpuacct": cpu, "pids": pids}
	}
	for name, c := range map[string]struct {
		mounts, own, offered string
		want                 map[string]string // nil: there is none
	}{
		"v1":              {v1, "8:pids:/\n4:memory:/user/one\n2:cpu,cpuacct:/\n0::/\n", "hugetlb", at("/sys/fs/cgroup/memory/user/one/modulate", "/sys/fs/cgroup/cpu,cpuacct/modulate", "/sys/fs/cgroup/pids/modulate")},
		"v1 in part":      {part, "8:pids:/docker/c1\n4:memory:/docker/c1/x\n2:cpu,cpuacct:/other\n", "", at("/sys/fs/cgroup/memory/x/modulate", "/sys/fs/cgroup/cpu,cpuacct/modulate", "/sys/fs/cgroup/pids/modulate")},
		"v1 without pids": {strings.ReplaceAll(v1, "rw,pids", "rw,other"), "4:memory:/\n", "", nil},
		"v2":              {v2, "0::/system.slice/workerd.service\n", all, map[string]string{"memory": "/sys/fs/cgroup/modulate", "cpu": "/sys/fs/cgroup/modulate", "pids": "/sys/fs/cgroup/modulate"}},
		"v2 without cpu":  {v2, "0::/\n", "memory pids", nil},
		"none":            {"22 27 0:21 / /proc rw - proc proc rw\n", "", "", nil},
	} {
		h, err := parseHierarchy(c.mounts, c.own, func(string) string { return c.offered })
		if (err == nil) != (c.want != nil) || err == nil && !maps.Equal(h.parent, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, h.parent, err, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	l := Limits{Memory: 1 << 20, CPU: 1.5, PIDs: 9}
	for _, c := range []struct {
		v2   bool
		l    Limits
		want string
	}{
		{false, l, "memory.limit_in_bytes=1048576 memory.memsw.limit_in_bytes=1048576 pids.max=9 cpu.cfs_quota_us=150000"},
		{false, Limits{}, "memory.limit_in_bytes=-1 memory.memsw.limit_in_bytes=-1 pids.max=max cpu.cfs_quota_us=-1"},
		{true, l, "memory.max=1048576 memory.swap.max=0 pids.max=9 cpu.max=150000 100000"},
		{true, Limits{}, "memory.max=max memory.swap.max=0 pids.max=max cpu.max=max 100000"},
		{true, Limits{CPU: 0.001}, "memory.max=max memory.swap.max=0 pids.max=max cpu.max=1000 100000"},
	} {
		var got []string
		for _, s := range (hierarchy{v2: c.v2}).settings(c.l) {
			got = append(got, s.file+"="+s.value)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("v2 %v, %+v: %q, want %q", c.v2, c.l, got, c.want)
		}
	}
}
