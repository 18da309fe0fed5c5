package runner_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/runner"
)

// A daemon is a Kept that others adopt from.
type daemon struct {
	*runner.Kept
	dir, spool string
}

// newDaemon opens a Kept; it is over the spool of before, if that is given.
func newDaemon(t *testing.T, before *daemon) *daemon {
	t.Helper()
	d := &daemon{dir: t.TempDir(), spool: t.TempDir()}
	if before != nil {
		d.dir, d.spool = before.dir, before.spool
	}
	k, err := runner.OpenKept(runner.KeptConfig{Dir: d.dir, Spool: d.spool, Program: os.Args[0], Prefix: "k.cpu."})
	if err != nil {
		t.Fatal(err)
	}
	d.Kept = k
	return d
}

// end closes the daemon, which has nothing left.
func (d *daemon) end(t *testing.T) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := append(names(t, d.dir), names(t, d.spool)...); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// leave runs a script, whose outputs nobody sees, and leaves it when it has
// written its first line.
func (d *daemon) leave(t *testing.T, script string, edit ...func(*runner.Job)) (line string) {
	t.Helper()
	left := make(chan struct{})
	var first bytes.Buffer
	j := job("bash", me+script, append(edit, func(j *runner.Job) {
		j.Note, j.Leave = note("note\x00of "+t.Name()), left
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			if first.Len() == 0 {
				close(left)
			}
			return first.Write(p)
		})
		j.Stderr = io.Discard
	})...)
	if r := d.Run(t.Context(), j); r.End != runner.Left || r.Forget != nil {
		t.Fatalf("%+v", r)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	line, _, _ = strings.Cut(first.String(), "\n")
	return line
}

// adopt has a new daemon go on with the only job that d has left.
func (d *daemon) adopt(t *testing.T, edit ...func(*runner.Job)) (*daemon, ran) {
	t.Helper()
	next := newDaemon(t, d)
	orphans, err := next.Adopt()
	if err != nil || len(orphans) != 1 || string(orphans[0].Note()) != "note\x00of "+t.Name() {
		t.Fatalf("adopted %d: %v", len(orphans), err)
	}
	var r ran
	var out, errs bytes.Buffer
	j := runner.Job{Stdout: &out, Stderr: &errs}
	for _, e := range edit {
		e(&j)
	}
	r.Result = orphans[0].Resume(t.Context(), j)
	r.out, r.errs = out.String(), errs.String()
	return next, r
}

// forget forgets a job whose result is in.
func forget(t *testing.T, r ran) {
	t.Helper()
	if r.Forget == nil {
		t.Fatalf("nothing to forget: %+v", r.Result)
	}
	if err := r.Forget(); err != nil {
		t.Error(err)
	}
}

// gate is a FIFO: a script that reads from it waits until it is opened.
func gate(t *testing.T) (path string, open func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// A script goes on without its daemon, and another gets all of it: output from
// the first byte on, the rest of stdin, what it left, its end.
func TestAdopt(t *testing.T) {
	path, open := gate(t)
	d := newDaemon(t, nil)
	stdin, w := io.Pipe()
	defer w.Close()
	go w.Write([]byte("one\n"))
	d.leave(t, `read -r a; echo "$a"; read -r a <`+path+`; cat; echo problem >&2; echo -n {} > $MODULATE_OUTPUT/result.json; exit 3`,
		func(j *runner.Job) { j.Stdin = stdin })
	next := newDaemon(t, d)
	orphans, err := next.Adopt()
	if err != nil || len(orphans) != 1 {
		t.Fatalf("adopted %d: %v", len(orphans), err)
	}
	if size, more := orphans[0].Stdin(); size != 4 || !more {
		t.Errorf("%d bytes of stdin are there, more are wanted: %v", size, more)
	}
	open()
	var out, errs bytes.Buffer
	collected := ""
	r := ran{Result: orphans[0].Resume(t.Context(), runner.Job{
		Stdin: strings.NewReader("two\n"), Stdout: &out, Stderr: &errs,
		Collect: func(_ context.Context, root *os.Root) error {
			body, err := root.ReadFile("result.json")
			collected = string(body)
			return err
		},
	})}
	if r.End != runner.Exited || r.Code != 3 || r.Err != nil || out.String() != "one\ntwo\n" || errs.String() != "problem\n" || collected != "{}" {
		t.Errorf("%+v, stdout %q, stderr %q, collected %q", r.Result, out.String(), errs.String(), collected)
	}
	forget(t, r)
	if again, err := next.Adopt(); len(again) != 0 || err != nil {
		t.Errorf("adopted again: %d, %v", len(again), err)
	}
	good(t, ran{Result: next.Run(t.Context(), job("sh", "exit 0"))})
	next.end(t)
}

// A folder that was never whole goes; one that cannot be read, for whatever
// reason, may be that of a script which runs.
func TestAdoptRemovesWhatWasNeverWhole(t *testing.T) {
	d := newDaemon(t, nil)
	half, unread := filepath.Join(d.spool, "k.cpu.half"), filepath.Join(d.spool, "k.cpu.unread")
	for _, dir := range []string{half, filepath.Join(unread, "stdout")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if orphans, err := d.Adopt(); len(orphans) != 0 || !errors.Is(err, unix.EISDIR) {
		t.Errorf("adopted %d, %v", len(orphans), err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was never whole: %v", err)
	}
	if _, err := os.Stat(unread); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(unread); err != nil {
		t.Fatal(err)
	}
	d.end(t)
}

// A script that ends while nobody is there is settled by whoever comes next.
func TestAdoptWhatIsOver(t *testing.T) {
	path, open := gate(t)
	before := names(t, "/proc/self/fd")
	d := newDaemon(t, nil)
	pid := d.leave(t, `me; read -r a <`+path+`; echo end; kill -SEGV $$`, func(j *runner.Job) { j.Serve = func(net.Listener, string) {} })
	if after := names(t, "/proc/self/fd"); len(after) > len(before) {
		t.Errorf("the daemon that has left it had descriptors %q, and has %q", before, after)
	}
	fd := held(t, pid)
	open()
	awaitEnd(t, fd, 10*time.Second)
	next, r := d.adopt(t)
	if r.End != runner.Signalled || r.Signal != unix.SIGSEGV || r.out != pid+"\nend\n" {
		t.Errorf("%+v, stdout %q", r.Result, r.out)
	}
	forget(t, r)
	next.end(t)
}

// What cannot be noted is not begun.
func TestNoteFails(t *testing.T) {
	d := newDaemon(t, nil)
	noInk := errors.New("no ink")
	r := d.in(t, job("sh", "echo ran", func(j *runner.Job) { j.Note = func() ([]byte, error) { return nil, noInk } }))
	if r.End != runner.Failed || !errors.Is(r.Err, noInk) || r.out != "" {
		t.Errorf("%+v, stdout %q", r.Result, r.out)
	}
	forget(t, r)
	good(t, d.in(t, job("sh", "exit 0")))
	d.end(t)
}

// A keeper whose folder is removed waits for no adopter: it ends when its script
// has, whichever comes first.
func TestAKeeperWithoutAFolder(t *testing.T) {
	for name, over := range map[string]bool{"before the end": false, "after the end": true} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, nil)
			var lease runner.Lease
			lease.Extend(runner.Boottime() + time.Hour)
			path, open := gate(t)
			pid := d.leave(t, `me; read -r a <`+path, func(j *runner.Job) { j.Lease = &lease })
			script, kept := held(t, pid), held(t, strconv.Itoa(parent(t, pid)))
			if over {
				open()
				awaitEnd(t, script, 10*time.Second)
				awaitExit(t, d.spool)
			}
			if err := os.RemoveAll(d.spool); err != nil {
				t.Fatal(err)
			}
			if !over {
				open()
			}
			awaitEnd(t, kept, time.Minute)
		})
	}
}

// A keeper that is killed takes its script along; what it had written down is
// enough where it had come to that.
func TestKeeperKilled(t *testing.T) {
	for name, over := range map[string]bool{"mid-script": false, "over": true} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, nil)
			path, open := gate(t)
			pid := d.leave(t, `me; read -r a <`+path+`; sleep 600 & if [ -n "`+strings.Repeat("x", map[bool]int{true: 1}[over])+`" ]; then exit 7; fi; wait`)
			script, keeper := held(t, pid), parent(t, pid)
			open()
			if over {
				awaitEnd(t, script, 10*time.Second)
				awaitExit(t, d.spool)
			}
			if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, script, 10*time.Second)
			next, r := d.adopt(t, func(j *runner.Job) {
				if over { // then there is nothing to leave any more
					leave := make(chan struct{})
					close(leave)
					j.Leave = leave
				}
			})
			if over && (r.End != runner.Exited || r.Code != 7 || r.out != pid+"\n") || !over && r.End != runner.Lost {
				t.Errorf("%+v, stdout %q", r.Result, r.out)
			}
			forget(t, r)
			next.end(t)
		})
	}
}

// awaitExit returns once a keeper has written down how its job ended.
func awaitExit(t *testing.T, spool string) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 10*time.Second; runtime.Gosched() {
		found, _ := filepath.Glob(spool + "/*/exit")
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				return
			}
		}
	}
	t.Fatal("the keeper wrote nothing down")
}

// A daemon learns at once that its keeper has died.
func TestKeeperKilledUnderItsDaemon(t *testing.T) {
	d := newDaemon(t, nil)
	var out bytes.Buffer
	r := ran{Result: d.Run(t.Context(), job("bash", me+"me; sleep 600", func(j *runner.Job) {
		j.Note = note("note")
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			out.Write(p)
			return len(p), unix.Kill(parent(t, strings.TrimSpace(out.String())), unix.SIGKILL)
		})
	}))}
	if r.End != runner.Lost {
		t.Errorf("%+v", r.Result)
	}
	forget(t, r)
	d.end(t)
}

// The keeper ends a script whose lease nobody extends, and one whose lease is
// extended goes on.
func TestLease(t *testing.T) {
	d := newDaemon(t, nil)
	var lease runner.Lease
	lease.Extend(runner.Boottime() + 300*time.Millisecond)
	begin := time.Now()
	r := ran{Result: d.Run(t.Context(), job("bash", "trap '' TERM; while :; do sleep 0.01; done", func(j *runner.Job) {
		j.Note, j.Lease = note("note"), &lease
	}))}
	if took := time.Since(begin); r.End != runner.Killed || !errors.Is(r.Err, runner.ErrLease) || took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("%+v after %v", r.Result, took)
	}
	forget(t, r)
	// What a keeper hears of the lease while a script runs counts.
	lease.Extend(runner.Boottime() + time.Minute)
	r = ran{Result: d.Run(t.Context(), job("bash", "trap '' TERM; echo; while :; do sleep 0.01; done", func(j *runner.Job) {
		j.Note, j.Lease = note("note"), &lease
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			lease.Extend(runner.Boottime() + 300*time.Millisecond)
			return len(p), nil
		})
	}))}
	if r.End != runner.Killed || !errors.Is(r.Err, runner.ErrLease) {
		t.Errorf("%+v", r.Result)
	}
	forget(t, r)
	lease.Extend(runner.Boottime() + time.Minute)
	r = ran{Result: d.Run(t.Context(), job("bash", "echo; sleep 0.6", func(j *runner.Job) {
		j.Note, j.Lease = note("note"), &lease
		j.Stdout = writerFunc(func(p []byte) (int, error) {
			lease.Extend(runner.Boottime() + 300*time.Millisecond)
			lease.Extend(runner.Boottime() + time.Minute)
			return len(p), nil
		})
	}))}
	good(t, r)
	forget(t, r)
	d.end(t)
}

// skipper is a writer that notes what it was not given.
type skipper struct {
	bytes.Buffer
	at, from, to int64
}

func (s *skipper) Write(p []byte) (int, error) {
	s.at += int64(len(p))
	return s.Buffer.Write(p)
}

func (s *skipper) Skip(to int64) { s.from, s.to, s.at = s.at, to, to }

// A script goes on to its end where its adopter reads nothing.
func TestAdoptedFloodUnread(t *testing.T) {
	path, open := gate(t)
	d := newDaemon(t, nil)
	d.leave(t, `me; read -r a <`+path+`; head -c 20971520 /dev/zero; exec head -c 20971520 /dev/zero >&2`, func(j *runner.Job) { j.Timeout = time.Minute })
	next, r := d.adopt(t, func(j *runner.Job) {
		j.Stdout, j.Stderr = nil, nil
		go open()
	})
	good(t, r)
	forget(t, r)
	next.end(t)
}

// A flood while nobody is there keeps its first and its last 8 MiB.
func TestFloodWithoutDaemon(t *testing.T) {
	const lines, width = 2 << 20, 10 // 20 MiB
	path, open := gate(t)
	d := newDaemon(t, nil)
	pid := d.leave(t, `me; read -r a <`+path+`; exec `+strings.Join(job(python, "").Command, " ")+` -c '
for n in range(`+strconv.Itoa(lines)+`): print("%09d" % n)'`)
	fd := held(t, pid)
	open()
	awaitEnd(t, fd, time.Minute)
	var out skipper
	next, r := d.adopt(t, func(j *runner.Job) { j.Stdout = &out })
	good(t, r)
	const half = 8 << 20
	size := int64(len(pid) + 1 + lines*width)
	if out.at != size || out.from != half || out.to < half || out.to > size-half {
		t.Fatalf("%d bytes, skipped from %d to %d, want %d in all", out.at, out.from, out.to, size)
	}
	var want bytes.Buffer
	fmt.Fprintln(&want, pid)
	for n := range lines {
		fmt.Fprintf(&want, "%09d\n", n)
	}
	all := want.Bytes()
	if got := out.Bytes(); !bytes.Equal(got[:half], all[:half]) || !bytes.Equal(got[half:], all[out.to:]) {
		t.Error("other bytes came than were written")
	}
	forget(t, r)
	next.end(t)
}

// another starts a process that runs one script in dir, whose number it
// returns.
func another(t *testing.T, dir, kind string) (worker *exec.Cmd, pid string) {
	t.Helper()
	worker = exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), "RUNNER_WORKER="+dir, "RUNNER_KIND="+kind)
	worker.Stderr = os.Stderr
	out, err := worker.StdoutPipe()
	if err == nil {
		err = worker.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return worker, strings.TrimSpace(line)
}

// A job without a note dies with its daemon, one with a note does not; and
// folders of other machines are left alone.
func TestDaemonKilled(t *testing.T) {
	for name, kind := range map[string]string{"with a note": "noted kept", "without": "kept"} {
		t.Run(name, func(t *testing.T) {
			d := &daemon{dir: t.TempDir()}
			d.spool = filepath.Join(d.dir, "spool")
			worker, pid := another(t, d.dir, kind)
			fd := held(t, pid)
			if err := worker.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			worker.Wait()
			if kind == "kept" {
				awaitEnd(t, fd, 10*time.Second)
				return
			}
			other, err := runner.OpenKept(runner.KeptConfig{Dir: d.dir, Spool: d.spool, Program: os.Args[0], Prefix: "k.gpu."})
			if err != nil {
				t.Fatal(err)
			}
			if left, err := other.Adopt(); len(left) != 0 || err != nil {
				t.Errorf("gpu adopted %d jobs of cpu: %v", len(left), err)
			}
			if err := other.Close(); err != nil {
				t.Error(err)
			}
			next, err := runner.OpenKept(runner.KeptConfig{Dir: d.dir, Spool: d.spool, Program: os.Args[0], Prefix: "k.cpu."})
			if err != nil {
				t.Fatal(err)
			}
			orphans, err := next.Adopt()
			if err != nil || len(orphans) != 1 {
				t.Fatalf("%d adopted: %v", len(orphans), err)
			}
			now := make(chan struct{})
			out2 := &signalWriter{f: sync.OnceFunc(func() { close(now) })}
			r := ran{Result: orphans[0].Resume(t.Context(), runner.Job{Stdout: out2, Now: now})}
			if r.End != runner.Killed || out2.String() != pid+"\n" {
				t.Errorf("%+v, stdout %q", r.Result, out2.String())
			}
			awaitEnd(t, fd, time.Second)
			forget(t, r)
			if err := next.Close(); err != nil {
				t.Error(err)
			}
			if left := names(t, d.spool); len(left) != 0 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// held returns a pidfd of a process that lives.
func held(t *testing.T, pid string) int {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(n, 0)
	if err != nil {
		t.Fatalf("process %s does not run: %v", pid, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// awaitEnd waits for the end of the process behind a pidfd.
func awaitEnd(t *testing.T, fd int, limit time.Duration) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Fatalf("the process lives on: %v", err)
		}
		return
	}
}

// parent returns the parent of a process.
func parent(t *testing.T, pid string) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var ppid int
	if _, err := fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

// A keeper has nothing open that its daemon was started with, as the lock of a
// shell.
func TestKeeperInheritsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o600) // not close-on-exec: as it was inherited
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	d := newDaemon(t, nil)
	defer d.end(t)
	var out bytes.Buffer
	r := d.Run(t.Context(), job("bash", ":", func(j *runner.Job) { j.Stdout, j.Stderr = &out, io.Discard }))
	if r.End != runner.Exited {
		t.Fatalf("%+v", r)
	}
	keepers := 0
	for _, pid := range children(t) {
		name, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil || !strings.HasPrefix(string(name), "modulate-keeper") {
			continue
		}
		keepers++
		open, err := filepath.Glob("/proc/" + pid + "/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range open {
			if to, _ := os.Readlink(f); to == path {
				t.Errorf("keeper %s has %s open", pid, to)
			}
		}
	}
	if keepers == 0 {
		t.Error("no keeper was found")
	}
}
