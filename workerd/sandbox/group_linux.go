package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Group is a cgroup in which one sandbox after another runs: one directory
// under cgroup v2, one for each controller under v1. It is locked while it is
// open; SweepGroups removes those that nobody has locked.
type Group struct {
	at     hierarchy
	name   string
	limits Limits
	lock   *os.File
}

// groupTime is how long dead processes may take to leave their cgroup, and who
// sweeps to remove one.
const groupTime = 5 * time.Second

// OpenGroup makes a cgroup of that name, which no other has, with those limits.
func OpenGroup(name string, l Limits) (_ *Group, err error) {
	at, err := findHierarchy()
	if err == nil {
		err = at.prepare()
	}
	if err != nil {
		return nil, fmt.Errorf("making cgroup %s: %w", name, err)
	}
	g := &Group{at: at, name: name, limits: l}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making cgroup %s: %w", name, err), g.Close())
		}
	}()
	if g.lock, err = makeLocked(g.dir(controllers[0])); err != nil {
		return nil, err
	}
	for _, dir := range at.dirs()[1:] { // the first has the lock
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	for _, s := range at.settings(l) {
		if err := g.set(s); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// makeLocked makes a directory and locks it. Who sweeps may take one that is new
// for one that nobody has, and remove it: then it is made again.
func makeLocked(dir string) (*os.File, error) {
	swept := false
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if err := os.Mkdir(dir, 0o755); err != nil && !(swept && errors.Is(err, fs.ErrExist)) {
			return nil, err
		}
		lock, err := openLocked(dir, 0)
		swept = errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EWOULDBLOCK)
		if !swept || time.Since(began) > groupTime {
			return lock, err
		}
	}
}

func (g *Group) dir(controller string) string { return filepath.Join(g.at.parent[controller], g.name) }

func (g *Group) set(s setting) error {
	err := write(filepath.Join(g.dir(s.controller), s.file), s.value)
	if s.optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write writes to a file that is there.
func write(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Start has do start a process with attr, which is in the group from its first
// moment on, and all that it will start. One that runs already is moved by the
// kernel in 10 ms and more; a thread that moves itself waits for nobody
// (cgroup_procs_write_start in kernel/cgroup/cgroup.c), and under v2 a process
// is made where it belongs. The calling goroutine is locked to its thread.
func (g *Group) Start(attr *syscall.SysProcAttr, do func() error) error {
	if g.at.v2 {
		dir, err := os.Open(g.dir(controllers[0]))
		if err != nil {
			return fmt.Errorf("starting in a cgroup: %w", err)
		}
		defer dir.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
		return do()
	}
	err := g.moveThread(func(dir string) string { return filepath.Join(dir, g.name) })
	if err == nil {
		err = do()
	}
	return errors.Join(err, g.moveThread(filepath.Dir))
}

// moveThread moves the calling thread to what to makes of the directories of
// all groups.
func (g *Group) moveThread(to func(dir string) string) error {
	for _, dir := range g.at.dirs() {
		if err := write(filepath.Join(to(dir), "tasks"), "0"); err != nil {
			return fmt.Errorf("starting in a cgroup: %w", err)
		}
	}
	return nil
}

// Kill kills every process in the group and returns when there is none. They
// must be of the caller's pid namespace, or of one below it.
func (g *Group) Kill() error {
	err := write(filepath.Join(g.dir("pids"), "cgroup.kill"), "1")
	if !errors.Is(err, fs.ErrNotExist) { // v2, since Linux 5.14
		return errors.Join(err, g.empty(func([]int) {}))
	}
	// While nobody can fork, what is killed stays killed.
	err = g.set(setting{controller: "pids", file: "pids.max", value: "0"})
	err = errors.Join(err, g.empty(func(pids []int) {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}))
	for _, s := range g.at.settings(g.limits) {
		if s.controller == "pids" {
			err = errors.Join(err, g.set(s))
		}
	}
	return err
}

// empty calls do with the processes of the group until there are none.
func (g *Group) empty(do func(pids []int)) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		pids, err := g.procs()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Since(began) > groupTime {
			return fmt.Errorf("cgroup %s: %d processes live on %v after SIGKILL", g.name, len(pids), groupTime)
		}
		do(pids)
	}
}

func (g *Group) procs() (pids []int, err error) {
	text, err := os.ReadFile(filepath.Join(g.dir("pids"), "cgroup.procs"))
	for line := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			return nil, err
		}
		if pid > 0 { // of another namespace
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// OOMKills returns how many processes of the group the kernel has killed, since
// it was made, because its memory was used up.
func (g *Group) OOMKills() (int64, error) {
	n, err := readKey(filepath.Join(g.dir("memory"), g.at.oomFile()), "oom_kill")
	if err != nil {
		return 0, fmt.Errorf("reading a cgroup's oom counter: %w", err)
	}
	return n, nil
}

// CPU returns the processor time that the group has used since it was made.
func (g *Group) CPU() (time.Duration, error) {
	var n int64
	var err error
	if g.at.v2 {
		n, err = readKey(filepath.Join(g.dir("cpu"), "cpu.stat"), "usage_usec")
		n *= int64(time.Microsecond)
	} else {
		n, err = readKey(filepath.Join(g.dir("cpuacct"), "cpuacct.usage"), "")
	}
	if err != nil {
		return 0, fmt.Errorf("reading a cgroup's processor time: %w", err)
	}
	return time.Duration(n), nil
}

// readKey reads the number behind key; "": the file's only one.
func readKey(name, key string) (int64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		k, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if key == "" || ok && k == key {
			return strconv.ParseInt(cmp.Or(value, k), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", name, key)
}

// Close kills what is left and removes the group.
func (g *Group) Close() error {
	var errs []error
	if g.lock != nil {
		errs = append(errs, g.Kill())
	}
	for _, dir := range g.at.dirs() {
		errs = append(errs, removeGroup(filepath.Join(dir, g.name)))
	}
	if g.lock != nil {
		errs = append(errs, g.lock.Close())
	}
	return errors.Join(errs...)
}

// removeGroup removes a cgroup, which is busy for a moment after its last
// process has ended.
func removeGroup(dir string) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := syscall.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, syscall.EBUSY) || time.Since(began) > groupTime:
			return fmt.Errorf("removing cgroup %s: %w", dir, err)
		}
	}
}

// SweepGroups removes the groups whose processes have been killed.
func SweepGroups() error {
	at, err := findHierarchy()
	if err != nil {
		return nil // so there is none
	}
	found, err := os.ReadDir(at.parent[controllers[0]]) // where the locks are
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range found {
		if e.IsDir() {
			errs = append(errs, at.sweep(e.Name()))
		}
	}
	return errors.Join(errs...)
}
