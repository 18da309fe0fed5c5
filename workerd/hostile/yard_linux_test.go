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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
	"modulate/workerd/worker"
)

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
	bait := exec.Command("/bin/sh", "-c", "read x # "+hidden) // until its stdin is closed
	bait.Env = []string{"CANARY=" + hidden}
	line, err := bait.StdinPipe()
	if err == nil {
		err = bait.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		line.Close()
		bait.Wait() // its exit code says nothing
	})
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
