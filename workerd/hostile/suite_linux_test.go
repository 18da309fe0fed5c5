package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/host"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
	"modulate/workerd/worker"
)

// hidden is what no script may ever get to see: it stands in files and in the
// environment of processes on the host.
const hidden = "canary-5f0c9d41"

// within is how long a script may take to be contained.
const within = 10 * time.Second

func TestMain(m *testing.M) {
	if os.Args[0] == keeperName {
		os.Exit(keep())
	}
	os.Exit(m.Run())
}

// An attack is a script that means harm, and how it is to end.
type attack struct {
	name   string
	script string // after the prelude
	cause  promise.Cause
	or     promise.Cause  // on a machine that is slow
	signal syscall.Signal // when cause is signal
	amd64  bool           // it is for this architecture
	check  func(y *yard, rec promise.Record, seen string)
}

// prelude is what the scripts have in common. breach says that something worked
// that must not.
const prelude = `
import ctypes, errno, os, resource, shutil, signal, socket, stat, subprocess, sys, time
def breach(what): print("BREACH", what, flush=True)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, b"NAME")  # PR_SET_NAME
def call(*args): return libc.syscall(*args), ctypes.get_errno()
def denied(what, *args):
    got, err = call(*args)
    if got >= 0 or err != errno.EPERM: breach(f"{what}: {got}, {errno.errorcode.get(err)}")
`

// timeout is that of every attack: those that never end are to end by it.
const timeout = 3 * time.Second

func TestHostileScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	signal := t.TempDir()
	c := boxed(t, host.Machine{
		Slot:    host.Slot{Memory: 128 << 20, CPU: 1, PIDs: 64, Scratch: 32 << 20},
		Sandbox: host.Sandbox{Mounts: []host.Mount{{Source: signal, Target: "/signal"}}},
	})
	y := newYard(t, c)
	done := y.neighbour(signal)
	for _, list := range [][]attack{resources, streams, processes, kernel, reach} {
		for _, a := range list {
			t.Run(a.name, func(t *testing.T) {
				if a.amd64 && runtime.GOARCH != "amd64" {
					return
				}
				y := *y
				y.t = t
				y.suffer(a)
			})
		}
	}
	if err := os.WriteFile(filepath.Join(signal, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	done()
}

// suffer runs an attack and looks at what came of it.
func (y *yard) suffer(a attack) {
	began := time.Now()
	rec, seen := y.run(strings.Map(idRune, a.name), strings.Replace(prelude, "NAME", processName(), 1)+a.script, timeout)
	if took := time.Since(began); took > within {
		y.t.Errorf("contained after %v, later than %v", took, within)
	}
	out := rec.Outcome
	if out.Cause != a.cause && out.Cause != a.or || a.signal != 0 && out.Signal != int(a.signal) {
		y.t.Errorf("ended by %s (exit %d, signal %d), want %s; it wrote %.2000q, %.2000q", out.Cause, out.ExitCode, out.Signal, a.cause, out.Stdout.Tail, out.Stderr.Tail)
	}
	if at := strings.Index(seen, "BREACH"); at >= 0 {
		y.t.Errorf("%.300q", seen[at:])
	}
	if strings.Contains(seen, hidden) {
		y.t.Errorf("it got hold of the canary: %.2000q", seen)
	}
	if n := y.heard.Load(); n > 0 {
		y.t.Errorf("%d connections to the host's listeners", n)
	}
	if secret, err := os.ReadFile(y.secret); err != nil || string(secret) != hidden {
		y.t.Errorf("the host's file has become %q, %v", secret, err)
	}
	if left := y.survivors(); len(left) > 0 {
		y.t.Errorf("%d processes have survived: %q", len(left), left)
	}
	if a.check != nil {
		a.check(y, rec, seen)
	}
}

func idRune(r rune) rune {
	if promise.ValidID("x" + string(r)) {
		return r
	}
	return '-'
}

// A yard is where scripts run: a worker over memory ports, and the canaries
// around it.
type yard struct {
	t        *testing.T
	engine   *engine.Engine
	blobs    *blob.Memory
	worker   *worker.Worker
	secret   string        // a file of the host
	heard    *atomic.Int32 // connections to the host's listeners
	port     int           // of one of them
	hostname string
}

// newYard opens one.
func newYard(t *testing.T, m machine) *yard {
	t.Helper()
	y := &yard{t: t, blobs: blob.NewMemory(), secret: filepath.Join(t.TempDir(), "secret"), heard: &atomic.Int32{}}
	y.engine = &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory("cpu"), Blobs: y.blobs}
	var err error
	if y.worker, err = worker.New(worker.Config{Engine: y.engine, Name: "w", Runner: m.runner, Runtimes: m.runtimes, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	if y.hostname, err = os.Hostname(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(y.secret, []byte(hidden), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", "@" + hidden}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			y.port = a.Port
		}
		go y.listen(l)
	}
	return y
}

// listen gives the canary to whoever comes.
func (y *yard) listen(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		y.heard.Add(1)
		io.WriteString(conn, hidden)
		conn.Close()
	}
}

// run submits a script and returns what came of it, and all that was kept of
// it.
func (y *yard) run(id, script string, timeout time.Duration) (promise.Record, string) {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), timeout+2*within)
	defer cancel()
	sum := promise.Hash(sha256.Sum256([]byte(script)))
	if err := y.blobs.Put(ctx, blob.ContentKey(sum), strings.NewReader(script), int64(len(script)), sum); err != nil {
		y.t.Fatal(err)
	}
	_, err := y.engine.Create(ctx, promise.Record{
		ID: id, Owner: "local", Machine: "cpu", DeadlineAt: y.engine.Time().Add(time.Hour),
		Call: promise.Call{
			Name: "script.py", Runtime: "python", Script: sum, Timeout: timeout, Lease: 10 * time.Minute,
			Input: promise.Input{Env: map[string]string{"SECRET": y.secret, "PORT": strconv.Itoa(y.port)}},
		},
	}, nil)
	if err != nil {
		y.t.Fatal(err)
	}
	rec, err := y.worker.Execute(ctx, id)
	if err != nil {
		y.t.Fatal(err)
	}
	return rec, y.kept(rec)
}

// kept is all that was kept of a script.
func (y *yard) kept(rec promise.Record) string {
	y.t.Helper()
	var all bytes.Buffer
	for _, b := range [][]byte{rec.Outcome.Stdout.Tail, rec.Outcome.Stderr.Tail, rec.Outcome.Result.Inline, rec.Outcome.Artifacts.Inline} {
		all.Write(b)
	}
	for _, of := range []string{"log/", "out/"} {
		list, err := y.blobs.List(y.t.Context(), of+rec.ID+"/")
		if err != nil {
			y.t.Fatal(err)
		}
		for _, info := range list {
			all.Write(y.blob(info.Key))
		}
	}
	return all.String()
}

func (y *yard) blob(key string) []byte {
	y.t.Helper()
	src, err := y.blobs.Get(y.t.Context(), key, 0)
	if err != nil {
		y.t.Fatal(err)
	}
	defer src.Close()
	b, err := io.ReadAll(src)
	if err != nil {
		y.t.Fatal(err)
	}
	return b
}

// wantArtifacts checks which files have become artifacts.
func (y *yard) wantArtifacts(rec promise.Record, names ...string) {
	y.t.Helper()
	list := rec.Outcome.Artifacts.Inline
	if len(list) == 0 && rec.Outcome.Artifacts.Size > 0 {
		list = y.blob(blob.ArtifactsKey(rec.ID, rec.Outcome.Version))
	}
	var all []api.Artifact
	if err := json.Unmarshal(list, &all); err != nil {
		y.t.Errorf("no artifacts (%v); %+v", err, rec.Outcome.Error)
	}
	var got []string
	for _, a := range all {
		got = append(got, a.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		y.t.Errorf("artifacts are %q, want %q", got, names)
	}
}

// survivors are the processes that an attack has left. Each attack names its
// process, and a child has its parent's name.
func (y *yard) survivors() (left []string) {
	y.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil || len(all) == 0 {
		y.t.Fatalf("no processes are seen: %v", err)
	}
	for _, name := range all {
		if comm, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(comm)) == processName() {
			left = append(left, name)
		}
	}
	return left
}

// processName is that of every attack of this process.
func processName() string { return fmt.Sprintf("hostile-%d", os.Getpid()) }

// neighbour runs a script beside the attacks, until there is a file stop in
// dir. What is returned waits for its end, and looks whether it was disturbed.
func (y *yard) neighbour(dir string) (wait func()) {
	const script = `
import os, time
last, longest = time.monotonic(), 0
while not os.path.exists("/signal/stop"):
    open("mine", "a").write("x")
    time.sleep(0.02)
    now = time.monotonic()
    last, longest = now, max(longest, now - last)
size = os.stat("mine").st_size
print(size > 0 and open("mine").read() == "x" * size, longest < 3, longest)
`
	type end struct {
		rec  promise.Record
		seen string
	}
	ended := make(chan end, 1)
	go func() {
		rec, seen := y.run("neighbour", script, 10*time.Minute)
		ended <- end{rec, seen}
	}()
	return func() {
		e := <-ended
		if e.rec.Outcome.Cause != promise.CauseOK || !strings.HasPrefix(e.seen, "True True") {
			y.t.Errorf("the neighbour was disturbed: %s, %q", e.rec.Outcome.Cause, e.seen)
		}
		y.t.Logf("the neighbour: %s", e.seen)
	}
}

// A machine is what scripts run on.
type machine struct {
	runner   runner.Runner
	runtimes map[string][]string
}

// boxed is this machine with all that contains scripts here.
func boxed(t *testing.T, m host.Machine) machine {
	t.Helper()
	plan, err := m.Plan(1)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Sandbox.Level != sandbox.Bwrap || plan.Missing != "" {
		t.Fatalf("this machine contains scripts by %s: %s", plan.Sandbox.Level, plan.Missing)
	}
	return machine{contained{plan.Sandbox}, plan.Runtimes}
}
