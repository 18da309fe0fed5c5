// Package resonate_test runs the programs of this folder, written with the
// Resonate SDKs, against `modulate dev` and a gateway to emulated AWS: real
// processes, which it kills.
package resonate_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modulate/internal/emulator"
	"modulate/internal/lambdatest"
)

// patience is how long a test waits for what must happen, on a busy machine.
const patience = 90 * time.Second

// sdks are the folders of install.sh.
var sdks = filepath.Join("..", "..", ".sdks")

// pythons are the versions of the Python SDK.
var pythons = []string{"0.7.4", "0.8.1"}

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "6") // they wait for leases and sleeps most of the time
	emulator.Main(m)
	os.RemoveAll(programs.dir)
}

// programs are ours, built once.
var programs struct {
	sync.Once
	dir string
	err error
}

// built is the path of one of them.
func (w *world) built(name ...string) string {
	w.t.Helper()
	programs.Do(func() { programs.dir, programs.err = build() })
	if programs.err != nil {
		w.t.Fatal(programs.err)
	}
	return filepath.Join(append([]string{programs.dir}, name...)...)
}

// build returns the directory where it has put the programs.
func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "resonate-"); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "modulate/cmd/modulate", "modulate/workerd")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	_, err = lambdatest.Build(context.Background(), dir, "functions/router", "")
	return dir, err
}

// world is a server that can be killed, and what programs need to use it.
type world struct {
	t      *testing.T
	url    string                  // leads to the server, wherever it is
	at     atomic.Pointer[url.URL] // where it is
	server *process
	serve  func() // starts it
	python string // the interpreter with the SDK
	dir    string
	env    []string
}

func newWorld(t *testing.T, version string) *world {
	t.Helper()
	w := &world{t: t, python: filepath.Join(sdk(t, "python-"+version), "bin", "python"), dir: t.TempDir()}
	if _, err := os.Stat(w.python); err != nil {
		t.Skip("the SDKs are not installed: run examples/modulate-resonate/install.sh")
	}
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(w.at.Load()) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // nobody is there
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn),
	})
	t.Cleanup(front.Close)
	w.url = front.URL
	return w
}

// newDev is a world with a running dev.
func newDev(t *testing.T, version string) *world {
	t.Helper()
	w := newWorld(t, version)
	w.serve = func() {
		w.listen("listening on ", "modulate", "dev", "--listen", "127.0.0.1:0", "--machines", "cpu:1", "--dir", filepath.Join(w.dir, "store"))
	}
	w.serve()
	return w
}

// listen starts a program of ours as the server, whose line that begins so says
// where it is.
func (w *world) listen(says, name string, args ...string) {
	w.t.Helper()
	w.server = w.start(w.built(name), args...)
	_, at, _ := strings.Cut(w.server.wait(says), "http://")
	at, _, _ = strings.Cut(at, ",")
	w.at.Store(&url.URL{Scheme: "http", Host: at})
}

// process is a program that runs.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	mu    sync.Mutex
	lines []string
	last  string        // of them, on its stdout
	more  chan struct{} // capacity 1: there is more
	done  chan struct{}
	err   error
}

// start starts a program, which ends with the test at the latest.
func (w *world) start(name string, args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, cmd: exec.Command(name, args...), more: make(chan struct{}, 1), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), w.env...), "RESONATE_URL="+w.url, "PYTHONUNBUFFERED=1")
	var reading sync.WaitGroup
	stdout, stderr := p.listen(&reading, &p.last), p.listen(&reading, new(string))
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		stdout.Close()
		stderr.Close()
		reading.Wait()
		close(p.done)
	}()
	w.t.Cleanup(p.kill)
	return p
}

// listen returns what takes lines of the program's in, and keeps the last one.
func (p *process) listen(reading *sync.WaitGroup, last *string) *io.PipeWriter {
	out, in := io.Pipe()
	reading.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.lines, *last = append(p.lines, s.Text()), s.Text()
			p.mu.Unlock()
			p.poke()
		}
	})
	return in
}

func (p *process) poke() {
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// output is what the program has written so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// count is how many lines begin so.
func (p *process) count(prefix string) (n int) {
	for line := range strings.Lines(p.output()) {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// wait returns the first line that begins so.
func (p *process) wait(prefix string) string {
	p.t.Helper()
	return p.waits(prefix, 1)
}

// waits returns the n-th line that begins so.
func (p *process) waits(prefix string, n int) string {
	p.t.Helper()
	over := time.After(patience)
	for {
		left := n
		for line := range strings.Lines(p.output()) {
			if strings.HasPrefix(line, prefix) {
				left--
			}
			if left == 0 {
				return strings.TrimSpace(line)
			}
		}
		select {
		case <-p.more:
		case <-p.done:
			p.t.Fatalf("%s ended, %v, and never said %q:\n%s", p.cmd, p.err, prefix, p.output())
		case <-over:
			p.t.Fatalf("%s never said %q:\n%s", p.cmd, prefix, p.output())
		}
	}
}

// end waits for the program's end, and returns the last line of its stdout: an
// SDK that is stopped may complain on stderr of answers that it no longer gets.
func (p *process) end() string {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end:\n%s", p.cmd, p.output())
	}
	if p.err != nil {
		p.t.Fatalf("%s: %v\n%s", p.cmd, p.err, p.output())
	}
	return p.last // nobody writes it any more
}

func (w *world) program(args ...string) *process { return w.start(w.python, args...) }

// ready starts a program that serves until it is killed.
func (w *world) ready(args ...string) *process {
	p := w.program(args...)
	p.wait("ready")
	return p
}

// script writes a script, and returns its path.
func (w *world) script(text string) string {
	path := filepath.Join(w.dir, fmt.Sprintf("%x.py", len(text)))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// check looks at the outcome that modulate.py printed.
func (w *world) check(got, stdout string) {
	w.t.Helper()
	var outcome struct {
		Stdout   string
		ExitCode int `json:"exit_code"`
	}
	if err := json.Unmarshal([]byte(got), &outcome); err != nil || outcome.Stdout != stdout || outcome.ExitCode != 0 {
		w.t.Errorf("the outcome is %s, want %q", got, stdout)
	}
}

// each runs a test with each version of the Python SDK.
func each(t *testing.T, test func(w *world)) {
	if testing.Short() {
		t.Skip("starts programs of the SDKs")
	}
	t.Parallel()
	for _, version := range pythons {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(newDev(t, version))
		})
	}
}

// TestModes: rpc, detached and direct; and the same id again is the same promise.
func TestModes(t *testing.T) { each(t, (*world).modes) }

func (w *world) modes() {
	w.ready("router.py", "--ttl", "3")
	worker := w.ready("worker.py", "--group", "gpu")
	hello := w.script("print('hello')")
	w.check(w.program("modulate.py", "--script", hello, "--wait", "--id", "one").end(), "hello\n")
	w.check(w.program("modulate.py", "--script", hello, "--wait", "--id", "one").end(), "hello\n")
	if n := worker.count("started"); n != 1 {
		w.t.Errorf("the script of one id was started %d times", n)
	}
	id := strings.Trim(w.program("modulate.py", "--script", hello).end(), `"`)
	w.check(w.program("modulate.py", "--get", id).end(), "hello\n")
	w.check(w.program("modulate.py", "--script", hello, "--direct").end(), "hello\n")
}

// TestKills: the router dies while it waits, then the worker while it runs.
func TestKills(t *testing.T) { each(t, (*world).kills) }

func (w *world) kills() {
	router := w.ready("router.py", "--ttl", "3")
	worker := w.ready("worker.py", "--group", "gpu", "--ttl", "3")
	slow := w.script("import time; time.sleep(2); print('slow')")
	client := w.program("modulate.py", "--script", slow, "--wait")
	worker.wait("started")
	router.kill()
	w.ready("router.py", "--ttl", "3")
	w.check(client.end(), "slow\n")
	if n := worker.count("started"); n != 1 {
		w.t.Errorf("the script was started %d times, though only the router died", n)
	}

	client = w.program("modulate.py", "--script", slow, "--direct")
	worker.waits("started", 2)
	killed := time.Now()
	worker.kill() // which also waits for its script's end
	other := w.ready("worker.py", "--group", "gpu", "--ttl", "3")
	other.wait("started")
	w.t.Logf("started again %s after the kill, the lease was 3 s", time.Since(killed).Round(time.Millisecond))
	w.check(client.end(), "slow\n")
}

// TestServerKilled: the server dies under a script, which goes on, and is not
// started again.
func TestServerKilled(t *testing.T) { each(t, (*world).serverKilled) }

func (w *world) serverKilled() {
	worker, end := w.begun("60")
	w.server.kill()
	w.serve()
	end()
	w.check(w.program("modulate.py", "--get", "waits").end(), "waited\n")
	if n := worker.count("started"); n != 1 {
		w.t.Errorf("the script was started %d times, though only the server died", n)
	}
}

// begun returns a worker with so many seconds of a lease that has begun a
// script, and what lets the script end.
func (w *world) begun(ttl string) (worker *process, end func()) {
	w.t.Helper()
	file := filepath.Join(w.dir, "end")
	waits := w.script(fmt.Sprintf("import os, time\nwhile not os.path.exists(%q): time.sleep(0.05)\nprint('waited')", file))
	worker = w.ready("worker.py", "--group", "gpu", "--ttl", ttl)
	w.program("modulate.py", "--script", waits, "--direct", "--id", "waits")
	worker.wait("started")
	return worker, func() {
		w.t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestLeases: several scripts that outlive their lease run at once on one
// worker, whose heartbeats name them all, and are started once.
func TestLeases(t *testing.T) {
	each(t, func(w *world) {
		worker := w.ready("worker.py", "--group", "gpu", "--ttl", "6")
		long := w.script("import time; time.sleep(13); print('long')")
		var clients []*process
		for range 3 {
			clients = append(clients, w.program("modulate.py", "--script", long, "--direct"))
		}
		for _, c := range clients {
			w.check(c.end(), "long\n")
		}
		if n := worker.count("started"); n != 3 {
			w.t.Errorf("3 scripts longer than the lease were started %d times", n)
		}
	})
}

// TestLateWorker: work that was there before its worker is its at once.
func TestLateWorker(t *testing.T) {
	each(t, func(w *world) {
		client := w.program("modulate.py", "--script", w.script("print('late')"), "--direct", "--id", "early")
		w.until("early", func(state string) bool { return state == "pending" })
		worker := w.ready("worker.py", "--group", "gpu")
		began := time.Now()
		worker.wait("started")
		w.t.Logf("started %s after the worker was there", time.Since(began).Round(time.Millisecond))
		w.check(client.end(), "late\n")
	})
}

// TestFeatures: what workflows do, by each SDK, after its process was killed.
func TestFeatures(t *testing.T) {
	if testing.Short() {
		t.Skip("starts programs of the SDKs")
	}
	t.Parallel()
	for _, wf := range workflows(t) {
		t.Run(wf.name, func(t *testing.T) {
			t.Parallel()
			newDev(t, wf.python).features(wf)
		})
	}
}

// workflow is the program of an SDK that does what workflows do.
type workflow struct {
	name, python string // python is the version of the rest of its world
	command      func(w *world) []string
}

// workflows are those of the SDKs that are to be had: no registry has Go's.
func workflows(t *testing.T) []workflow {
	python := func(w *world) []string { return []string{w.python, "features.py"} }
	all := []workflow{{"python 0.7.4", "0.7.4", python}, {"python 0.8.1", "0.8.1", python}, {"typescript", "0.8.1", typescript}}
	modfile := filepath.Join(sdk(t, "go"), "go.mod")
	if _, err := os.Stat(modfile); err != nil {
		return all
	}
	return append(all, workflow{"go", "0.8.1", func(w *world) []string {
		program := filepath.Join(w.dir, "features")
		if out, err := exec.Command("go", "build", "-C", "go", "-modfile", modfile, "-o", program).CombinedOutput(); err != nil {
			w.t.Fatalf("building features: %v\n%s", err, out)
		}
		return []string{program}
	}})
}

// typescript puts features.mjs beside the modules that it imports.
func typescript(w *world) []string {
	dir := sdk(w.t, "typescript")
	node := filepath.Join(dir, "node_modules", ".bin", "node")
	if _, err := os.Stat(node); err != nil {
		w.t.Skip("the SDK of TypeScript is not installed: run examples/modulate-resonate/install.sh")
	}
	text, err := os.ReadFile("features.mjs")
	if err != nil {
		w.t.Fatal(err)
	}
	program, err := os.CreateTemp(dir, "features-*.mjs")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.Remove(program.Name()) })
	_, err = program.Write(text)
	if err := errors.Join(err, program.Close()); err != nil {
		w.t.Fatal(err)
	}
	return []string{node, program.Name()}
}

// sdk is the folder of an SDK.
func sdk(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(sdks, name))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// features kills a workflow in its first step, starts it again, settles the
// promise that it then waits for, and sees it end.
func (w *world) features(wf workflow) {
	w.t.Helper()
	command := append(wf.command(w), "features")
	first := w.start(command[0], append(command[1:], "--hold")...)
	first.wait("held")
	first.kill()
	p := w.start(command[0], command[1:]...)
	promise := strings.Fields(p.wait("promise "))[1]
	w.post("promise.settle", map[string]any{"id": promise, "state": "resolved", "value": map[string]any{"data": "InllcyI="}}) // "yes"
	if got := strings.NewReplacer(" ", "", "'", `"`).Replace(p.end()); got != `result[40,"yes"]` {
		w.t.Errorf("%s\n%s", got, p.output())
	}
}

// until waits for a promise to be in a state.
func (w *world) until(id string, ok func(state string) bool) {
	w.t.Helper()
	ctx, stop := context.WithTimeout(w.t.Context(), patience)
	defer stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok(w.post("promise.get", map[string]any{"id": id})) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("%s does not come to that state", id)
		}
	}
}

// post sends a request of the protocol, and returns the state of its promise.
func (w *world) post(kind string, data map[string]any) string {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"kind": kind, "head": map[string]any{"corrId": "test", "version": "2026-04-01"}, "data": data})
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.Post(w.url+"/", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Data json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		w.t.Fatal(err)
	}
	var reply struct{ Promise struct{ State string } }
	json.Unmarshal(got.Data, &reply) // a refusal is a sentence
	return reply.Promise.State
}
