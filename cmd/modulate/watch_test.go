package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"modulate/functions/router/dispatch"
	"modulate/functions/status/read"
	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// A world is a server in memory, and a test as its worker.
type world struct {
	*testing.T
	engine *engine.Engine
	app    *app
	svc    *service
	out    bytes.Buffer
	err    bytes.Buffer
}

// newWorld returns a world whose requests pass through faults.
func newWorld(t *testing.T, faults func(http.RoundTripper) http.RoundTripper) *world {
	w := &world{T: t, engine: &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}}
	h := api.Join(dispatch.New(dispatch.Config{Engine: w.engine}), read.New(read.Config{Engine: w.engine}))
	nothing := func(string) (string, bool) { return "", false }
	w.app = &app{program: program{stdout: &w.out, stderr: &w.err, getenv: nothing}, screen: newScreen(&w.err)}
	w.svc = w.app.over(&link{next: faults(api.HandlerTransport(h)), address: "the test"}, "http://localhost")
	return w
}

// runs is a worker's attempt: it writes to both streams in parts, and ends.
func (w *world) runs(id string, parts []string, out promise.Outcome) {
	w.Helper()
	rec := w.apply(id, promise.Claim{Worker: "w", ClaimID: promise.Nonce{1, byte(len(parts))}})
	sizes := map[string]int64{}
	for _, part := range parts {
		time.Sleep(200 * time.Millisecond)
		for _, stream := range []string{"stdout", "stderr"} {
			text := stream + part
			key := blob.LogKey(id, rec.Task.Version, stream, sizes[stream])
			if err := w.engine.Blobs.Put(w.Context(), key, strings.NewReader(text), int64(len(text)), promise.Hash{}); err != nil {
				w.Fatal(err)
			}
			sizes[stream] += int64(len(text))
		}
	}
	time.Sleep(100 * time.Millisecond)
	out.Stdout = promise.Stream{Size: sizes["stdout"], Stored: true}
	out.Stderr = promise.Stream{Size: sizes["stderr"], Stored: true}
	w.apply(id, promise.Fulfil{Version: rec.Task.Version, ClaimID: rec.Task.ClaimID, SettleID: promise.Nonce{2}, Outcome: out})
}

func (w *world) apply(id string, ev promise.Event) promise.Record {
	w.Helper()
	rec, err := w.engine.Apply(w.Context(), id, ev)
	if err != nil {
		w.Fatalf("%T: %v", ev, err)
	}
	return rec
}

// call is a submission that is tried twice.
func call() api.Submit {
	source := "print()"
	return api.Submit{
		ID: "job", Machine: "cpu", Script: api.Script{Name: "x.py", Source: &source},
		Retry: &api.Retry{Policy: "constant", MaxAttempts: 2, DelayMS: 1000},
	}
}

// submitAndWait is the command's, with a worker that fails once.
func (w *world) submitAndWait(ctx context.Context) error {
	s := &submission{app: w.app}
	done := make(chan error)
	go func() { done <- s.submitAndWait(ctx, w.svc, call()) }()
	synctest.Wait()
	for {
		if _, err := w.engine.Get(w.Context(), "job"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.runs("job", []string{" 1 a\n", " 1 b\n"}, promise.Outcome{Cause: promise.CauseExit, ExitCode: 5})
	time.Sleep(1200 * time.Millisecond)
	w.runs("job", []string{" 2 a\n", " 2 b\n", " 2 c"}, promise.Outcome{Cause: promise.CauseExit, ExitCode: 6})
	return <-done
}

// want fails the test unless both streams came out exactly.
func (w *world) want(err error, code int) {
	w.Helper()
	const text = "S 1 a\nS 1 b\nS 2 a\nS 2 b\nS 2 c"
	if got := asFailure(err).code; got != code {
		w.Errorf("exit code %d (%v), want %d", got, err, code)
	}
	for name, got := range map[string]string{"stdout": w.out.String(), "stderr": w.err.String()} {
		if want := strings.ReplaceAll(text, "S", name); got != want {
			w.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestOutputIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper { return next })
		w.want(w.submitAndWait(t.Context()), 6)
	})
}

// faults breaks requests: every n-th gets no answer, by turns before and after
// it was served.
type faults struct {
	next  http.RoundTripper
	n     int64
	count atomic.Int64
}

func (f *faults) RoundTrip(req *http.Request) (*http.Response, error) {
	count := f.count.Add(1)
	if count%f.n != 0 {
		return f.next.RoundTrip(req)
	}
	if count/f.n%2 == 1 {
		return nil, syscall.ECONNRESET
	}
	resp, err := f.next.RoundTrip(req)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return nil, io.ErrUnexpectedEOF
}

// What gets no answer is asked again: no output is lost, and none comes twice.
// Who follows is told why an attempt ended that another follows, once, and goes
// on with that.
func TestFollowingThroughAttempts(t *testing.T) {
	for cause, want := range map[promise.Cause]string{
		promise.CauseLost:    "attempt 1 was lost: its worker w was not heard of any more; going on with attempt 2",
		promise.CauseDrained: "attempt 1 was given back: its worker w stops; going on with attempt 2",
		promise.CauseExit:    "attempt 1 ended: exit; going on with attempt 2",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(next http.RoundTripper) http.RoundTripper { return next })
			if _, _, err := w.svc.client.Submit(t.Context(), call(), api.SubmitOptions{}); err != nil {
				t.Fatal(err)
			}
			rec := w.apply("job", promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}})
			if err := w.engine.Blobs.Put(t.Context(), blob.LogKey("job", 1, "stdout", 0), strings.NewReader("half"), 4, promise.Hash{}); err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() { done <- (&logging{app: w.app, follow: true, tail: -1}).show(t.Context(), w.svc, "job") }()
			time.Sleep(time.Second)
			switch cause {
			case promise.CauseDrained:
				w.apply("job", promise.Release{Version: 1, ClaimID: rec.Task.ClaimID, Cause: cause})
			case promise.CauseExit:
				w.apply("job", promise.Fulfil{Version: 1, ClaimID: rec.Task.ClaimID, Outcome: promise.Outcome{Cause: cause, ExitCode: 1}})
			}
			time.Sleep(time.Minute)
			w.runs("job", []string{" 2 a\n", " 2 b\n"}, promise.Outcome{Cause: promise.CauseOK})
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got := w.out.String(); got != "halfstdout 2 a\nstdout 2 b\n" {
				t.Errorf("%s: stdout is %q", cause, got)
			}
			if got := w.err.String(); got != "modulate: "+want+"\nstderr 2 a\nstderr 2 b\n" {
				t.Errorf("%s: stderr is %q", cause, got)
			}
		})
	}
}

func TestOutputIsExactOverABrokenConnection(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 5} {
		synctest.Test(t, func(t *testing.T) {
			broken := &faults{n: n}
			if n == 1 {
				broken.n = 2
				broken.count.Store(1) // the very first request too
			}
			w := newWorld(t, func(next http.RoundTripper) http.RoundTripper {
				broken.next = next
				return broken
			})
			w.want(w.submitAndWait(t.Context()), 6)
		})
	}
}

// outage is a server that is away for a while: nobody listens.
type outage struct {
	next http.RoundTripper
	from time.Duration // since began
	to   time.Duration
	at   time.Time
}

func (o *outage) RoundTrip(req *http.Request) (*http.Response, error) {
	if now := time.Since(o.at); now >= o.from && now < o.to {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return o.next.RoundTrip(req)
}

// A server that was there once is waited for, whatever time it is away.
func TestAServerThatWasThereIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &outage{from: 350 * time.Millisecond, to: time.Hour, at: time.Now()}
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper {
			away.next = next
			return away
		})
		w.want(w.submitAndWait(t.Context()), 6)
		if waited := time.Since(away.at); waited < time.Hour {
			t.Errorf("the wait ended after %v, before the server was back", waited)
		}
	})
}

// One that never was there is given up soon.
func TestAServerThatNeverWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &outage{to: time.Hour, at: time.Now()}
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper {
			away.next = next
			return away
		})
		s := &submission{app: w.app}
		err := s.submitAndWait(t.Context(), w.svc, call())
		if code := asFailure(err).code; code != exitUnreachable {
			t.Errorf("exit code %d (%v), want %d", code, err, exitUnreachable)
		}
		if waited := time.Since(away.at); waited > 3*firstContact {
			t.Errorf("it took %v to give up", waited)
		}
		if said := w.err.String(); !strings.Contains(said, "no server answers at the test: ") {
			t.Errorf("it says %q", said)
		}
	})
}

// Ctrl-C leaves the promise as it is and says what continues.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper { return next })
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &submission{app: w.app}
		time.AfterFunc(time.Second, func() { cancel(errInterrupted) })
		err := s.submitAndWait(ctx, w.svc, call())
		if code := asFailure(err).code; code != exitInterrupted {
			t.Errorf("exit code %d (%v), want %d", code, err, exitInterrupted)
		}
		if want := "modulate: error: interrupted\nmodulate: hint: to go on: modulate wait job\n"; w.err.String() != want {
			t.Errorf("it says %q, want %q", w.err.String(), want)
		}
		if rec, err := w.engine.Get(t.Context(), "job"); err != nil || rec.State != promise.Pending {
			t.Errorf("the promise is %v, %v; want pending", rec.State, err)
		}
	})
}

// A short script costs the request that submits it, and no other.
func TestAShortScriptCostsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := &faults{n: 1 << 40}
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper {
			count.next = next
			return count
		})
		s := &submission{app: w.app}
		done := make(chan error)
		go func() { done <- s.submitAndWait(t.Context(), w.svc, call()) }()
		synctest.Wait()
		rec := w.apply("job", promise.Claim{Worker: "w", ClaimID: promise.Nonce{1}})
		out := promise.Outcome{Cause: promise.CauseOK}
		out.Stdout = promise.Stream{Size: 6, Tail: []byte("short\n")}
		out.Stderr = promise.Stream{Size: 2, Tail: []byte("é")}
		w.apply("job", promise.Fulfil{Version: rec.Task.Version, ClaimID: rec.Task.ClaimID, SettleID: promise.Nonce{2}, Outcome: out})
		if err := <-done; err != nil {
			t.Error(err)
		}
		if w.out.String() != "short\n" || w.err.String() != "é" {
			t.Errorf("the output is %q, %q", w.out.String(), w.err.String())
		}
		if n := count.count.Load(); n != 1 {
			t.Errorf("it took %d requests, want 1", n)
		}
	})
}

// brokenPipe is an output whose reader has gone.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// Output that nobody reads ends the wait at once and quietly, as the shell's
// pipes do.
func TestNobodyReadsTheOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(next http.RoundTripper) http.RoundTripper { return next })
		w.app.stdout = brokenPipe{}
		err := w.submitAndWait(t.Context())
		if f := asFailure(err); f.code != 141 || f.err != nil {
			t.Errorf("it ends with %d (%v), want 141 and nothing to say", f.code, f.err)
		}
	})
}

func TestViewText(t *testing.T) {
	begun := []api.Attempt{{Number: 1, Worker: "w1", Cause: "lost", EndedAt: &time.Time{}}, {Number: 2, Worker: "w2"}}
	waiting := api.Promise{ID: "job", State: "pending", Machine: "gpu"}
	running := waiting
	running.Attempts = begun
	for want, v := range map[string]view{
		"submitting, 1s": {ahead: -1, workers: -1},
		"pending, waiting for gpu, attempt 1, 1s":                               {promise: waiting, ahead: -1, workers: -1},
		"pending, waiting for gpu, attempt 1, about 3 before it, 1s":            {promise: waiting, ahead: 3, workers: 2},
		"pending, running on gpu (w2), attempt 2, 1s":                           {promise: running, workers: 1},
		"pending, running here for gpu, attempt 2, 1s":                          {promise: running, here: "w2"},
		"pending, held by w2 until its lease is over or it ends, attempt 2, 1s": {promise: running, here: "w3"},
		"no answer, trying again, 1s":                                           {promise: running, trouble: "no answer, trying again"},
	} {
		v.waited = time.Second
		if got := v.text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	v := view{promise: waiting, waited: workerless}
	if got, want := v.text(), "pending, waiting for gpu, attempt 1, no worker is up, 3s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if v.waited = workerless - 1; v.workerless() {
		t.Error("a worker is missed before it had time to start")
	}
}

func TestTail(t *testing.T) {
	for lines, want := range map[int]string{0: "", 1: "d", 2: "c\nd", 3: "b\nc\nd", 9: "a\nb\nc\nd"} {
		last := &tail{lines: lines}
		for _, part := range []string{"a\nb", "\nc\n", "d"} {
			if n, err := last.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := string(last.text); got != want {
			t.Errorf("the last %d lines are %q, want %q", lines, got, want)
		}
	}
	if last := (&tail{lines: 1}); true {
		last.Write([]byte("a\nb\n"))
		if got := string(last.text); got != "b\n" {
			t.Errorf("the last line is %q, want %q", got, "b\n")
		}
	}
}

// errFailed is what a test's writer fails with.
var errFailed = errors.New("failed")

func TestOutputFailure(t *testing.T) {
	if f := outputFailure(errFailed); f.code != exitFailed || !errors.Is(f, errFailed) {
		t.Errorf("it ends with %d (%v)", f.code, f.err)
	}
}
