package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/internal/emulator"
	"modulate/internal/queue"
)

// What keeps a worker from starting, in one sentence each, with what to do.
func TestStageRefusesToStart(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	stage, bucket := emulator.Stage(t, cfg, "cpu")
	away := newLine(t, *cfg.BaseEndpoint)
	away.down.Store(true)
	behind := newLine(t, *cfg.BaseEndpoint)
	behind.ahead.Store(int64(20 * time.Second))
	denied := newLine(t, *cfg.BaseEndpoint)
	denied.denied.Store(true)
	for name, c := range map[string]struct {
		endpoint   string
		env        []string
		args       []string
		says, hint string
	}{
		"no table":       {args: []string{"--stage", "none"}, says: "there is no table modulate-none in us-east-1", hint: "sam deploy --config-env none"},
		"no queue":       {args: []string{"--machine", "gpu"}, says: "there is no queue for machine gpu of stage " + stage + " in us-east-1", hint: "infra/machine.yaml"},
		"no bucket":      {args: []string{"--bucket", "modulate-none"}, says: "there is no bucket modulate-none in us-east-1", hint: "sam deploy"},
		"clock behind":   {endpoint: behind.url, says: "the clock of this machine is", hint: "chrony"},
		"unreachable":    {endpoint: away.url, says: "AWS does not answer at " + away.url, hint: "AWS_REGION"},
		"denied":         {endpoint: denied.url, says: "AWS denies access: not now", hint: "aws sts get-caller-identity"},
		"no credentials": {env: []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, says: "there are no AWS credentials", hint: "AWS_PROFILE"},
		"no region":      {env: []string{"AWS_REGION="}, says: "no AWS region is set", hint: "AWS_REGION=us-east-1"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.endpoint == "" {
				c.endpoint = *cfg.BaseEndpoint
			}
			onAWS(t, c.endpoint, c.env...)
			var out, errs bytes.Buffer
			args := append([]string{"--stage", stage, "--bucket", bucket, "--spool", t.TempDir()}, c.args...)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // it works, perhaps
			defer cancel()
			code := run(ctx, args, os.Getenv, &out, &errs)
			said, hint, _ := strings.Cut(errs.String(), "\n")
			if code != exitFailed || !strings.HasPrefix(said, "workerd: error: ") || !strings.Contains(said, c.says) || out.Len() > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d and %q", code, &out, &errs, exitFailed, c.says)
			}
			if !strings.HasPrefix(hint, "workerd: hint: ") || !strings.Contains(hint, c.hint) || strings.Count(hint, "\n") != 1 {
				t.Errorf("hint %q, want one line with %q", hint, c.hint)
			}
		})
	}
}

// A script of a stage submits another through its socket: the worker's role
// signs for it, and large content goes through the worker too.
func TestStageRunsScriptsThatSubmit(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	stage, bucket := emulator.Stage(t, cfg, "cpu")
	onAWS(t, *cfg.BaseEndpoint)
	s := newService(t, *cfg.BaseEndpoint, stage, bucket)
	w := start(t, "--stage", stage, "--bucket", bucket, "--url", s.url)
	if want := "working for cpu as "; !strings.HasPrefix(w.said, want) || !strings.Contains(w.said, "stage "+stage+" in us-east-1") {
		t.Errorf("it says %q", w.said)
	}
	s.submit(t, "parent", parent, 30*time.Second)
	p := s.settled(t, "parent")
	if p.State != "resolved" || !strings.Contains(p.Outcome.Stdout.Tail, "201 204 resolved hello from a file") {
		t.Errorf("%s, stdout %q, stderr %q", p.State, p.Outcome.Stdout.Tail, p.Outcome.Stderr.Tail)
	}
	if child := s.settled(t, "parent.1"); child.Parent != "parent" || child.State != "resolved" {
		t.Errorf("the child: %+v", child)
	}
	if auth := s.auth.Load(); auth == nil || !strings.Contains(*auth, "Credential=test/") || !strings.Contains(*auth, "/us-east-1/execute-api/") {
		t.Error("the stage's API was not asked in the worker's name")
	}
	w.shows(t, 200, "ok")
	if _, text := w.get(t, "/metrics"); !strings.Contains(text, `modulate_ended_attempts_total{cause="ok"} 2`) ||
		!strings.Contains(text, "modulate_received_messages_total 2\n") || !strings.Contains(text, "modulate_kept_outcomes 0\n") {
		t.Errorf("metrics:\n%s", text)
	}
	all, err := s.Machines(t.Context())
	if err != nil || len(all.Items) != 1 || len(all.Items[0].Workers) != 1 {
		t.Errorf("machines %+v, %v; want its worker to be known", all, err)
	}
}

// parent uploads a file and submits a script that prints it.
const parent = `
import hashlib, http.client, json, os, socket

class Socket(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["MODULATE_SOCKET"])

def ask(method, path, body, **headers):
    c = Socket("localhost")
    c.request(method, path, body, headers)
    r = c.getresponse()
    return r.status, r.read()

text = b"hello from a file"
sha = hashlib.sha256(text).hexdigest()
asked, answer = ask("POST", "/v1/blobs", json.dumps({"sha256": sha, "size": len(text)}), **{"Content-Type": "application/json"})
up = json.loads(answer)
put, _ = ask("PUT", up["url"], text, **up["headers"])
_, answer = ask("POST", "/v1/promises", json.dumps({
    "machine": "cpu", "mode": "rpc", "script": {"name": "c.py", "source": "print(open('f').read())"},
    "files": [{"name": "f", "sha256": sha, "size": len(text)}],
}), **{"Content-Type": "application/json", "Prefer": "wait=20"})
child = json.loads(answer)
while child["state"] == "pending":
    _, answer = ask("GET", "/v1/promises/" + child["id"], None, Prefer="wait=10")
    child = json.loads(answer)
print(asked, put, child["state"], child["outcome"]["stdout"]["tail"])
`

// Failures 11, 28 and 29 on AWS: what is ready while AWS is away is kept on
// disk and settled once, whether the lease has outlasted it or not.
func TestStageOutage(t *testing.T) {
	for name, c := range map[string]struct {
		lease time.Duration
		away  func(*testing.T, *running)
	}{
		"shorter than the lease": {30 * time.Second, func(*testing.T, *running) {}},
		"longer than the lease": {10 * time.Second, func(t *testing.T, w *running) {
			eventually(t, func() bool {
				_, said := w.get(t, "/readyz")
				_, after, found := strings.Cut(said, "the store has not answered for ")
				after, _, _ = strings.Cut(after, ":")
				d, err := time.ParseDuration(after)
				return found && err == nil && d > 13*time.Second
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := emulator.Config(t, emulator.AWS(t))
			stage, bucket := emulator.Stage(t, cfg, "cpu")
			wire := newLine(t, *cfg.BaseEndpoint)
			onAWS(t, wire.url)
			s := newService(t, *cfg.BaseEndpoint, stage, bucket)
			spool, dir := t.TempDir(), t.TempDir()
			w := start(t, "--stage", stage, "--bucket", bucket, "--spool", spool, "--config", openMachine(t))
			begun, end := filepath.Join(dir, "begun"), filepath.Join(dir, "end")
			s.submit(t, "a", "import os, time\nopen('"+begun+"', 'w')\nwhile not os.path.exists('"+end+"'): time.sleep(0.02)\nprint('once')", c.lease)
			eventually(t, func() bool { _, err := os.Stat(begun); return err == nil })
			wire.down.Store(true)
			if err := os.WriteFile(end, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool {
				kept, err := filepath.Glob(filepath.Join(spool, bucket, "*", "*.outcome"))
				return err == nil && len(kept) == 1
			})
			c.away(t, w)
			w.shows(t, 503, "the store has not answered for ")
			wire.down.Store(false)
			p := s.settled(t, "a")
			if p.State != "resolved" || p.Outcome.Stdout.Tail != "once\n" || len(p.Attempts) != 1 {
				t.Errorf("%s after %d attempts, stdout %q", p.State, len(p.Attempts), p.Outcome.Stdout.Tail)
			}
			w.shows(t, 200, "ok")
			if n := w.away("the store"); n < 1 || n > 2 {
				t.Errorf("it was said %d times that the store is away:\n%s", n, w.errs)
			}
		})
	}
}

// AWS that refuses for now is borne with, and said, not for each call.
func TestStageThrottledAndDenied(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	stage, bucket := emulator.Stage(t, cfg, "cpu")
	wire := newLine(t, *cfg.BaseEndpoint)
	onAWS(t, wire.url)
	s := newService(t, *cfg.BaseEndpoint, stage, bucket)
	wire.throttled.Store(true)
	w := start(t, "--stage", stage, "--bucket", bucket) // it is there, after all
	s.submit(t, "a", "print('at last')", 30*time.Second)
	w.shows(t, 503, "the store has not answered for ")
	wire.throttled.Store(false)
	if p := s.settled(t, "a"); p.State != "resolved" {
		t.Errorf("it is %s", p.State)
	}
	wire.denied.Store(true)
	s.submit(t, "b", "pass", 30*time.Second) // ends the receive that waits
	w.shows(t, 503, "the queue has not answered for ")
	wire.denied.Store(false)
	w.shows(t, 200, "ok")
	for _, what := range []string{"the store", "the queue"} {
		if n := w.away(what); n < 1 || n > 2 {
			t.Errorf("it was said %d times that %s does not answer:\n%s", n, what, w.errs)
		}
	}
}

// A clock that goes wrong later is no reason to stop, but to be told.
func TestStageClockGoesWrong(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	stage, bucket := emulator.Stage(t, cfg, "cpu")
	wire := newLine(t, *cfg.BaseEndpoint)
	onAWS(t, wire.url)
	s := newService(t, *cfg.BaseEndpoint, stage, bucket)
	w := start(t, "--stage", stage, "--bucket", bucket)
	wire.ahead.Store(int64(-time.Minute))
	s.submit(t, "a", "pass", 30*time.Second)
	if p := s.settled(t, "a"); p.State != "resolved" {
		t.Errorf("it is %s", p.State)
	}
	w.shows(t, 503, "the clock of this machine is")
	if _, text := w.get(t, "/metrics"); !strings.Contains(text, "modulate_clock_skew_seconds -5") || !strings.Contains(text, "modulate_troubles 1\n") {
		t.Errorf("metrics:\n%s", text)
	}
}

// The rules of messages, by what a real queue says of them: garbage is buried,
// one of a newer version and one without a promise are left, those of an ended
// promise and duplicates of a running one start nothing.
func TestStageMessages(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	stage, bucket := emulator.Stage(t, cfg, "cpu")
	wire := newLine(t, *cfg.BaseEndpoint)
	onAWS(t, wire.url)
	s := newService(t, *cfg.BaseEndpoint, stage, bucket)
	dir := t.TempDir()
	ran, end := filepath.Join(dir, "ran"), filepath.Join(dir, "end")
	s.submit(t, "ended", "open('"+ran+"', 'a').write('ended ')", 30*time.Second)
	if _, err := s.Cancel(t.Context(), "ended"); err != nil {
		t.Fatal(err)
	}
	s.submit(t, "running", "import os, time\nopen('"+ran+"', 'a').write('running ')\nwhile not os.path.exists('"+end+"'): time.sleep(0.02)", 30*time.Second)
	q := s.queue
	for _, body := range []string{
		`{"v":1`, `{"v":9,"id":"x","version":1}`,
		string(queue.Encode("ghost", 1)), string(queue.Encode("running", 0)), string(queue.Encode("running", 7)),
	} {
		if err := q.Send(t.Context(), "cpu", []byte(body), 0); err != nil {
			t.Fatal(err)
		}
	}
	w := start(t, "--stage", stage, "--bucket", bucket, "--slots", "2", "--config", openMachine(t))
	depth := func(want queue.Depth) func() bool {
		return func() bool {
			got, err := q.Depth(t.Context(), "cpu")
			return err == nil && got == want
		}
	}
	eventually(t, func() bool { b, _ := os.ReadFile(ran); return string(b) == "running " })
	eventually(t, func() bool { return wire.hides(5) })     // running and its two duplicates, the newer one, the ghost
	eventually(t, depth(queue.Depth{InFlight: 5, Dead: 1})) // a duplicate that was looked at later would be removed
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if p := s.settled(t, "running"); p.State != "resolved" || len(p.Attempts) != 1 {
		t.Errorf("%s after %d attempts", p.State, len(p.Attempts))
	}
	eventually(t, depth(queue.Depth{InFlight: 4, Dead: 1}))
	if b, _ := os.ReadFile(ran); string(b) != "running " {
		t.Errorf("what ran: %s", b)
	}
	w.shows(t, 200, "ok")
}
