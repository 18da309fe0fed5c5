package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/local"
	"modulate/workerd/host"
	"modulate/workerd/runner"
)

// A finding is one thing that doctor looked at.
type finding struct {
	what string
	bad  bool
	text string
}

// How long doctor waits for what may hang, and how much room it wants to see.
const (
	doctorTime = 10 * time.Second
	serverTime = 3 * time.Second
	stallTime  = time.Second
	wantedRoom = 256 << 20 // bytes
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong with the store and this machine", Args: noArgs,
		Long: `Look at the server that would be used, the store, who holds it, the
interpreters and the devices of this machine; with --stage at the credentials,
the stage's stack, the clock, and the machines that have workers. A line for
each, which begins with ok or BAD; exit code 125 when one is bad. Nothing is
changed.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
	}
}

func (a *app) doctor(ctx context.Context) error {
	stage, err := a.whichStage()
	if err != nil {
		return err
	}
	d := &examination{app: a}
	looks := []func(context.Context) finding{
		d.seeWriter, d.seeServer, d.seeStore, d.seeRoom, seePython, seeOthers, seeDevices,
	}
	if stage != "" {
		s := &stageExamination{examination: d, stage: stage}
		looks = []func(context.Context) finding{s.seeCredentials, s.seeStack, s.seeClock, s.seeRouter}
	}
	code := 0
	say := func(f finding) error {
		word := "ok"
		if f.bad {
			word, code = "BAD", exitFailed
		}
		return a.print(fmt.Sprintf("%-4s %-9s %s\n", word, f.what, sanitize(f.text)))
	}
	for _, look := range looks {
		if err := say(look(ctx)); err != nil {
			return err
		}
	}
	if stage == "" {
		for _, f := range seeSandbox() {
			if err := say(f); err != nil {
				return err
			}
		}
	}
	return ends(code)
}

// seeSandbox tells what contains scripts here. What is not there is no fault:
// scripts run with what there is.
func seeSandbox() (all []finding) {
	found, _ := host.Examine(host.Machine{}) // which asks for nothing
	for _, f := range found {
		all = append(all, finding{what: f.Name, text: f.Text})
	}
	return all
}

// An examination is one run of doctor.
type examination struct {
	*app
	stalled bool // nothing can be written to the store, and nothing closed
}

// seeServer tells who answers the commands of this folder.
func (d *examination) seeServer(ctx context.Context) finding {
	svc, err := d.remote(ctx)
	if err != nil {
		return finding{"server", true, err.Error()}
	}
	if svc == nil {
		return finding{"server", false, "none: commands work on " + d.storeDir() + " themselves"}
	}
	defer svc.close()
	f := svc.examine(ctx)
	if held := d.devHolder(); !f.bad && held != nil && held.PID != 0 {
		f.text += fmt.Sprintf("; dev is process %d", held.PID)
	}
	return f
}

// examine asks a server for its machines.
func (s *service) examine(ctx context.Context) finding {
	ctx, cancel := context.WithTimeout(ctx, serverTime)
	defer cancel()
	began := time.Now()
	all, err := s.client.Machines(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return finding{"server", true, fmt.Sprintf("%s does not answer within %s", s.client.Address(), serverTime)}
	}
	if err != nil {
		return finding{"server", true, withHint(err)}
	}
	var machines []string
	for _, m := range all.Items {
		machines = append(machines, fmt.Sprintf("%s (%d workers)", m.Name, len(m.Workers)))
	}
	text := fmt.Sprintf("%s answers in %s; machines: %s", s.client.Address(), span(time.Since(began)), strings.Join(machines, ", "))
	return finding{"server", false, text}
}

// devHolder returns who serves the folder; nil: nobody.
func (a *app) devHolder() *local.Held {
	if _, found := local.FindServer(a.storeDir()); !found {
		return nil
	}
	lock, err := local.LockServer(a.storeDir())
	var held *local.Held
	if errors.As(err, &held) {
		return held
	}
	if err == nil {
		lock.Close() // it has just ended
	}
	return nil
}

// seeWriter names a process that has been in the middle of a commit for so
// long that it must stand still. It comes before seeStore: a process that
// closes a file of SQLite's gives up its own locks on it.
func (d *examination) seeWriter(ctx context.Context) finding {
	path := filepath.Join(d.storeDir(), "store.db-shm")
	pid, err := writer(path)
	for began := time.Now(); err == nil && pid != 0 && time.Since(began) < stallTime; {
		pause(ctx, stallTime/20)
		next, err := writer(path)
		if err != nil || next != pid {
			pid = 0
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return finding{"writer", false, "nobody has the store open"}
	case err != nil:
		return finding{"writer", true, fmt.Sprintf("%s: %v", path, reason(err))}
	case pid != 0:
		d.stalled = true
		return finding{"writer", true, fmt.Sprintf("process %d%s is in the middle of a commit and does not go on, which stalls everybody else: let it (kill -CONT %[1]d) or end it (kill -KILL %[1]d); nothing is lost", pid, processState(pid))}
	default:
		return finding{"writer", false, "nobody stalls the store"}
	}
}

// walWriteLock is the byte of FILE-shm that who commits has locked: the
// "WAL-index" section of SQLite's file format.
const walWriteLock = 120

// writer returns the process that is in the middle of a commit; 0: none is.
func writer(shm string) (pid int, err error) {
	f, err := os.Open(shm)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_RDLCK, Start: walWriteLock, Len: 1}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return 0, err
	}
	if lock.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// processState says how a process stands, where the system tells: " (python3,
// stopped)".
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(stat), "(")
	end := strings.LastIndexByte(rest, ')')
	if !ok || end < 0 || end+2 >= len(rest) {
		return ""
	}
	name, state := rest[:end], rest[end+2]
	if state == 'T' || state == 't' {
		return " (" + name + ", stopped)"
	}
	return " (" + name + ")"
}

// seeStore reads the whole store.
func (d *examination) seeStore(ctx context.Context) finding {
	path := filepath.Join(d.storeDir(), "store.db")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return finding{"store", false, "none yet in " + d.storeDir()}
	}
	if err != nil {
		return finding{"store", true, err.Error()}
	}
	if d.stalled {
		return finding{"store", true, path + " cannot be looked at while its writer stands still"}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	l, err := local.Open(ctx, local.Config{Dir: d.storeDir()})
	if err != nil {
		return finding{"store", true, err.Error()}
	}
	defer l.Close()
	faults, err := l.Check(ctx)
	switch {
	case err != nil:
		return finding{"store", true, err.Error()}
	case len(faults) > 0:
		return finding{"store", true, fmt.Sprintf("%s is damaged: %s", path, strings.Join(faults, "; "))}
	default:
		return finding{"store", false, fmt.Sprintf("%s is sound, %s", path, bytesText(info.Size()))}
	}
}

// seeRoom looks how full the disk is.
func (d *examination) seeRoom(context.Context) finding {
	dir := d.storeDir()
	if !exists(dir) {
		dir = "."
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return finding{"room", true, fmt.Sprintf("%s: %v", dir, err)}
	}
	free := int64(disk.Bavail) * int64(disk.Bsize)
	return finding{"room", free < wantedRoom, bytesText(free) + " are free for the store"}
}

// seePython looks for the interpreter that runs most scripts.
func seePython(ctx context.Context) finding {
	path, err := runner.Python()
	if err != nil {
		return finding{"python", true, err.Error()}
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return finding{"python", true, fmt.Sprintf("%s: %v", path, err)}
	}
	return finding{"python", false, path + ", " + strings.TrimSpace(string(version))}
}

// seeOthers looks for the interpreters that a machine may do without.
func seeOthers(context.Context) finding {
	var texts []string
	for _, name := range []string{"bash", "node"} {
		path, err := exec.LookPath(name)
		if err != nil {
			path = "not here, so scripts of that runtime cannot run"
		}
		texts = append(texts, name+": "+path)
	}
	return finding{"others", false, strings.Join(texts, "; ")}
}

func seeDevices(context.Context) finding {
	if hasGPU() {
		return finding{"gpu", false, "there is an NVIDIA device"}
	}
	return finding{"gpu", false, "no NVIDIA device: scripts for gpu run all the same, without one"}
}
