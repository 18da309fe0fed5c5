package runner_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"modulate/workerd/runner"
)

// full asks for the size of the gate, which takes minutes: make keepers.
var full = flag.Bool("full", false, "run what a machine needs minutes for")

// holdings is what a host has of things that could leak.
type holdings struct{ descriptors, mounts, theirs, uids, keepers, memory int }

func (h holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d mounts, %d uids; %d keepers with %d descriptors and %d KiB", h.descriptors, h.mounts, h.uids, h.keepers, h.theirs, h.memory)
}

// holds counts what this process and its keepers hold now.
func holds(t *testing.T) (h holdings) {
	t.Helper()
	h.descriptors = openFiles(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	h.mounts = bytes.Count(mounts, []byte("\n"))
	for _, k := range children(t) {
		status, err := os.ReadFile("/proc/" + k + "/status")
		if err != nil {
			continue
		}
		h.keepers++
		_, rss, _ := strings.Cut(string(status), "VmRSS:")
		var kib int
		fmt.Sscan(rss, &kib)
		h.memory += kib
		theirs, _ := filepath.Glob("/proc/" + k + "/fd/*")
		h.theirs += len(theirs)
	}
	h.uids = len(uids(t))
	return h
}

// uids are the files that the keepers of this process hold, one for each uid.
func uids(t *testing.T) map[string]os.FileInfo {
	t.Helper()
	all := map[string]os.FileInfo{}
	for _, k := range children(t) {
		theirs, _ := filepath.Glob("/proc/" + k + "/fd/*")
		for _, fd := range theirs {
			path, _ := os.Readlink(fd)
			if !strings.HasPrefix(path, "/run/modulate/uid/") {
				continue
			}
			info, err := os.Stat(fd)
			if err != nil {
				t.Fatal(err)
			}
			all[path] = info
		}
	}
	return all
}

// children are the children of this process.
func children(t *testing.T) []string {
	t.Helper()
	var all []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

// Script after script in sandboxes: nothing is left of any, and the keepers do
// not grow.
func TestManyScriptsLeaveNothing(t *testing.T) {
	scripts := 150
	if *full {
		scripts = 10_000
	}
	already := len(children(t))
	d := boxed(t, nil, ample)
	run := func(from, to int) {
		var all sync.WaitGroup
		for lane := range 2 {
			all.Go(func() {
				for n := from + lane; n < to; n += 2 {
					var out bytes.Buffer
					var socket net.Listener
					r := d.Run(t.Context(), job(python, fmt.Sprintf("print(%d)", n), func(j *runner.Job) {
						j.Stdout, j.Note = &out, note("note")
						j.Serve = func(l net.Listener, _ string) { socket = l }
					}))
					if r.End != runner.Exited || r.Code != 0 || r.Err != nil || out.String() != fmt.Sprintln(n) {
						t.Errorf("script %d: %+v, stdout %q", n, r, out.String())
						return
					}
					if err := errors.Join(socket.Close(), r.Forget()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		runtime.GC()
	}
	rest := func() holdings {
		t.Helper()
		d.awaitSandboxes(t)
		return holds(t)
	}
	run(0, 50) // until everything is as large as it gets
	before := rest()
	run(50, 50+scripts)
	after := rest()
	t.Logf("before: %s; after %d: %s", before, scripts, after)
	if after.descriptors > before.descriptors+4 || after.mounts != before.mounts || after.theirs > before.theirs+8 || after.keepers > before.keepers+1 ||
		after.uids == 0 || after.uids > after.keepers {
		t.Errorf("something leaks")
	}
	if grown := after.memory/max(after.keepers, 1) - before.memory/max(before.keepers, 1); grown > 1024 {
		t.Errorf("a keeper has grown by %d KiB", grown)
	}
	keepers, leased := names(t, d.spool), uids(t)
	d.end(t)
	for path, info := range leased {
		if now, err := os.Stat(path); err == nil && os.SameFile(now, info) {
			t.Errorf("a uid is not given back: %s", path)
		}
	}
	if left := len(children(t)); left > already {
		t.Errorf("%d processes are left", left-already)
	}
	for _, name := range keepers {
		if groups := cgroups(t, "modulate-"+strings.TrimPrefix(name, "k.cpu.")); len(groups) > 0 {
			t.Errorf("cgroups are left: %q", groups)
		}
	}
}

// cgroups finds the cgroups of that name.
func cgroups(t *testing.T, name string) (found []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = append(found, path)
		}
		return nil // what goes meanwhile is none of ours
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
