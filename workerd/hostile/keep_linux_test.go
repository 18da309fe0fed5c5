package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// A keeper here is the least process that keeps a sandbox: this test binary,
// started again as the first process of a pid namespace. It runs one script.

// keeperName is what it is called then.
const keeperName = "hostile-keeper"

// A task is what it is told.
type task struct {
	Sandbox sandbox.Config
	Argv    []string
	Env     []string
	Name    string // the script's
	Script  []byte
	Timeout time.Duration
}

// An ending is what it tells, beside a descriptor of the output directory.
type ending struct {
	Err      string
	Status   syscall.WaitStatus
	TimedOut bool
	OOM      int64
	Full     bool
	CPU      time.Duration
}

// gate holds the script back until it may run, and says when the sandbox is
// there: its two last descriptors.
const gate = `echo >&3; read -r go <&4; exec 3>&- 4<&- "$@"`

// keep is the main of a keeper.
func keep() int {
	in, conn := os.NewFile(3, "task"), os.NewFile(4, "worker")
	var t task
	end := ending{}
	output := -1
	err := json.NewDecoder(in).Decode(&t)
	if err == nil {
		output, err = t.run(&end)
	}
	if err != nil {
		end.Err = err.Error()
	}
	told, _ := json.Marshal(end)
	var rights []byte
	if output >= 0 {
		rights = unix.UnixRights(output)
	}
	if err := unix.Sendmsg(int(conn.Fd()), told, rights, nil, 0); err != nil {
		return 1
	}
	return 0
}

// run runs the script, and returns its output directory when all is dead.
func (t *task) run(end *ending) (output int, err error) {
	if err := sandbox.Enter(t.Sandbox.Limits); err != nil {
		return -1, err
	}
	group, err := sandbox.OpenGroup("hostile-"+strconv.FormatInt(time.Now().UnixNano(), 36), t.Sandbox.Limits)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, group.Close()) }()
	uid, err := sandbox.LeaseUID()
	if err != nil {
		return -1, err
	}
	defer uid.Close()
	pid, ready, err := t.start(uid.Number)
	if err != nil {
		return -1, err
	}
	if err := group.Add(pid); err != nil {
		return -1, err
	}
	if output, err = t.lay(pid, uid.Number); err != nil {
		return -1, err
	}
	ready.Write([]byte("\n"))
	ready.Close()
	timer := time.AfterFunc(t.Timeout, func() {
		end.TimedOut = true
		syscall.Kill(-1, syscall.SIGKILL)
	})
	end.Status = reap(pid)
	if !timer.Stop() {
		end.TimedOut = true
	}
	syscall.Kill(-1, syscall.SIGKILL)
	reap(-1)
	if end.OOM, err = group.OOMKills(); err != nil {
		return -1, err
	}
	if end.CPU, err = group.CPU(); err != nil {
		return -1, err
	}
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(output, &disk); err != nil {
		return -1, err
	}
	end.Full = disk.Bavail == 0 || disk.Ffree == 0
	return output, nil
}

// start starts the sandbox, and returns the process of the script once it is
// there; nothing of the script runs before a line is written to what is
// returned.
func (t *task) start(uid int) (pid int, open *os.File, err error) {
	there, says, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	waits, open, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	info, tells, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	argv := append([]string{"/bin/sh", "-c", gate, "gate"}, t.Argv...)
	c, err := t.Sandbox.Command(sandbox.Start{UID: uid, Command: argv, Env: t.Env, Files: []*os.File{says, waits}, Info: tells})
	if err != nil {
		return 0, nil, err
	}
	outer, err := os.StartProcess(c.Path, c.Argv, &os.ProcAttr{Env: c.Env, Files: append([]*os.File{os.Stdin, os.Stdout, os.Stderr}, c.Files...)})
	if err := errors.Join(err, c.Close(), says.Close(), waits.Close(), tells.Close()); err != nil {
		return 0, nil, err
	}
	var told struct {
		PID int `json:"child-pid"`
	}
	if err := json.NewDecoder(info).Decode(&told); err != nil {
		return 0, nil, fmt.Errorf("bubblewrap did not start: %w", err)
	}
	if _, err := there.Read(make([]byte, 1)); err != nil {
		return 0, nil, fmt.Errorf("the sandbox did not start: %w", err)
	}
	outer.Kill() // so that the script is the keeper's own child
	_, err = outer.Wait()
	return told.PID, open, err
}

// lay puts the script into its directory.
func (t *task) lay(pid, uid int) (output int, err error) {
	job, err := unix.Open(fmt.Sprintf("/proc/%d/root%s", pid, sandbox.ScratchDir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(job)
	script, err := unix.Openat(job, "work/"+t.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, err
	}
	f := os.NewFile(uintptr(script), t.Name)
	_, err = f.Write(t.Script)
	if err := errors.Join(err, f.Chown(uid, uid), f.Close()); err != nil {
		return -1, err
	}
	return unix.Openat(job, "output", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// reap reaps until that process has ended; -1: until nobody is left.
func reap(pid int) (status syscall.WaitStatus) {
	for {
		got, err := syscall.Wait4(-1, &status, 0, nil)
		if got == pid || errors.Is(err, syscall.ECHILD) {
			return status
		}
	}
}

// contained is a runner by such keepers.
type contained struct{ sandbox sandbox.Config }

var _ runner.Runner = contained{}

func (c contained) Run(ctx context.Context, job runner.Job) (res runner.Result) {
	end, output, err := c.run(ctx, job)
	if err == nil && end.Err != "" {
		err = errors.New(end.Err)
	}
	if err != nil {
		return runner.Result{End: runner.Failed, Err: err}
	}
	defer output.Close()
	res = runner.Result{CPU: end.CPU, OOM: end.OOM > 0, DiskFull: end.Full}
	switch {
	case end.TimedOut:
		res.End = runner.TimedOut
	case end.Status.Signaled():
		res.End, res.Signal = runner.Signalled, end.Status.Signal()
	default:
		res.Code = end.Status.ExitStatus()
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", output.Fd()))
	if err == nil {
		defer root.Close()
		err = job.Collect(ctx, root)
	}
	res.Err = err
	return res
}

func (c contained) run(ctx context.Context, job runner.Job) (end ending, output *os.File, err error) {
	src, err := job.Script()
	if err != nil {
		return end, nil, err
	}
	defer src.Close()
	t := task{Sandbox: c.sandbox, Name: job.Name, Timeout: job.Timeout, Argv: append(append([]string{}, job.Command...), append([]string{job.Name}, job.Args...)...)}
	t.Env = append([]string{"MODULATE_OUTPUT=" + sandbox.OutputDir, "HOME=" + sandbox.WorkDir, "TMPDIR=" + sandbox.TempDir, "PATH=" + sandbox.Path}, job.Env...)
	if t.Script, err = io.ReadAll(src); err != nil {
		return end, nil, err
	}
	in, feed, err := os.Pipe()
	if err != nil {
		return end, nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return end, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "worker")
	defer ours.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.SysProcAttr = []string{keeperName}, []string{"CANARY=" + hidden}, sandbox.Clone(os.Getuid(), os.Getgid())
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = job.Stdout, job.Stderr, []*os.File{in, theirs}
	if err := cmd.Start(); err != nil {
		return end, nil, err
	}
	in.Close()
	theirs.Close()
	err = errors.Join(json.NewEncoder(feed).Encode(t), feed.Close())
	told, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, rerr := unix.Recvmsg(int(ours.Fd()), told, rights, unix.MSG_CMSG_CLOEXEC)
	if err := errors.Join(err, rerr, cmd.Wait()); err != nil {
		return end, nil, err
	}
	if err := json.Unmarshal(told[:n], &end); err != nil || end.Err != "" {
		return end, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		return end, nil, fmt.Errorf("no output directory came: %w", err)
	}
	got, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return end, nil, err
	}
	return end, os.NewFile(uintptr(got[0]), "output"), nil
}
