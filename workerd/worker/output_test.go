package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
)

// leaving is a script that leaves files in MODULATE_OUTPUT.
func leaving(t *testing.T, files map[string]string, code int) func(context.Context, runner.Job) runner.Result {
	dir := t.TempDir()
	return func(ctx context.Context, job runner.Job) runner.Result {
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Error(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Error(err)
		}
		defer root.Close()
		return runner.Result{Code: code, Err: job.Collect(ctx, root)}
	}
}

func (w *world) blob(key string) []byte {
	w.t.Helper()
	src, err := w.blobs.Get(w.t.Context(), key, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := io.ReadAll(src)
	if err != nil {
		w.t.Fatal(err)
	}
	return body
}

func TestResultAndArtifacts(t *testing.T) {
	big := `"` + strings.Repeat("x", 1000) + `"`
	for _, c := range []struct {
		name  string
		files map[string]string
		check func(*testing.T, *world, promise.Outcome)
	}{
		{"a small result rides in the record", map[string]string{"result.json": `{"a": 1}`}, func(t *testing.T, w *world, o promise.Outcome) {
			if string(o.Result.Inline) != `{"a": 1}` || o.Result.Size != 8 || o.Artifacts.Size != 0 {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"a large one is a blob", map[string]string{"result.json": big}, func(t *testing.T, w *world, o promise.Outcome) {
			if o.Result.Inline != nil || o.Result.Size != 1002 || string(w.blob(blob.ResultKey("a", 1))) != big {
				t.Errorf("result %+v", o.Result)
			}
		}},
		{"one that is not JSON is none", map[string]string{"result.json": `{"a": `}, func(t *testing.T, w *world, o promise.Outcome) {
			if o.Result.Size != 0 || o.Error.Detail != "result.json is not valid JSON" {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"nor is one that is too large", map[string]string{"result.json": `"` + strings.Repeat("x", api.MaxResult-1) + `"`}, func(t *testing.T, w *world, o promise.Outcome) {
			if o.Result.Size != 0 || o.Error.Detail != "result.json is 262145 bytes: at most 262144" {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"the largest is kept", map[string]string{"result.json": `"` + strings.Repeat("x", api.MaxResult-2) + `"`}, func(t *testing.T, w *world, o promise.Outcome) {
			if o.Result.Size != api.MaxResult || o.Error != (promise.Problem{}) || len(w.blob(blob.ResultKey("a", 1))) != api.MaxResult {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"other files are artifacts", map[string]string{"b": "bb", "a/x.txt": "x", "result.json": "1"}, func(t *testing.T, w *world, o promise.Outcome) {
			var list []api.Artifact
			if err := json.Unmarshal(o.Artifacts.Inline, &list); err != nil || len(list) != 2 {
				t.Fatalf("artifacts %s: %v", o.Artifacts.Inline, err)
			}
			want := api.Artifact{Name: "a/x.txt", Size: 1, SHA256: "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
			if list[0] != want || list[1].Name != "b" {
				t.Errorf("artifacts %+v", list)
			}
			if got := w.blob(blob.ArtifactKey("a", 1, 1)); string(got) != "bb" {
				t.Errorf("the second artifact is %q", got)
			}
		}},
		{"many have a list of their own", map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": ""}, func(t *testing.T, w *world, o promise.Outcome) {
			var list []api.Artifact
			if err := json.Unmarshal(w.blob(blob.ArtifactsKey("a", 1)), &list); err != nil || len(list) != 6 || o.Artifacts.Inline != nil {
				t.Errorf("artifacts %+v, %d in the list: %v", o.Artifacts, len(list), err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			does := leaving(t, c.files, 0)
			inWorld(t, func(t *testing.T, w *world) {
				w.hire("w1", does, nil)
				w.submit("a", nil)
				rec := w.settled("a", time.Minute)
				if rec.State != promise.Resolved {
					t.Errorf("state %s: %+v", rec.State, rec.Outcome)
				}
				c.check(t, w, rec.Outcome)
			})
		})
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct{ sizes, want [4]int64 }{
		{[4]int64{}, [4]int64{}},
		{[4]int64{100, 100, 200, 112}, [4]int64{100, 100, 200, 112}},
		{[4]int64{0, 0, 513, 0}, [4]int64{0, 0, 512, 0}},
		{[4]int64{0, 0, 1 << 30, 100}, [4]int64{0, 0, 412, 100}},
		{[4]int64{0, 0, 1 << 30, 1 << 40}, [4]int64{0, 0, 256, 256}},
		{[4]int64{600, 0, 10, 1000}, [4]int64{0, 0, 10, 502}},
		{[4]int64{300, 300, 300, 300}, [4]int64{300, 0, 106, 106}},
	} {
		if got := share(room, c.sizes); got != c.want {
			t.Errorf("sizes %v: allowed %v, want %v", c.sizes, got, c.want)
		}
	}
}

// Output is in the blobs within 250 ms, or at once when there is much of it;
// what is over soon and short is never there.
func TestOutputIsShippedWhileTheScriptRuns(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			fmt.Fprint(job.Stdout, "one\n")
			time.Sleep(200 * time.Millisecond)
			fmt.Fprint(job.Stdout, "two\n")
			time.Sleep(time.Hour)
			job.Stdout.Write(bytes.Repeat([]byte("x"), chunkReady))
			time.Sleep(time.Hour)
			return runner.Result{}
		}, nil)
		w.submit("a", nil)
		time.Sleep(249 * time.Millisecond)
		if n := c.host.blobs.puts.Load(); n != 0 {
			t.Errorf("%d chunks too early", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := w.logOf(w.get("a"), "stdout"); got != "one\ntwo\n" {
			t.Errorf("after 250 ms %q", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.logOf(w.get("a"), "stdout"); len(got) != 8+chunkReady {
			t.Errorf("%d bytes, want a full chunk at once", len(got))
		}
		rec := w.settled("a", 3*time.Hour)
		if s := rec.Outcome.Stdout; s.Size != 8+chunkReady || !s.Stored || len(s.Tail) != room || s.Cut != 0 {
			t.Errorf("stdout %d bytes, stored %v, a tail of %d", s.Size, s.Stored, len(s.Tail))
		}
	})
}

// What the sandbox took away is the cause where the script failed, and only
// there.
func TestCauseByEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		res  runner.Result
		want promise.Cause
	}{
		"exit":                   {runner.Result{Code: 1}, promise.CauseExit},
		"signal":                 {runner.Result{End: runner.Signalled, Signal: 9}, promise.CauseSignal},
		"oom":                    {runner.Result{End: runner.Signalled, Signal: 9, OOM: true}, promise.CauseOutOfMemory},
		"oom of a child":         {runner.Result{Code: 1, OOM: true}, promise.CauseOutOfMemory},
		"oom that was borne":     {runner.Result{OOM: true}, promise.CauseOK},
		"oom, then too long":     {runner.Result{End: runner.TimedOut, OOM: true}, promise.CauseTimeout},
		"full disk":              {runner.Result{Code: 1, DiskFull: true}, promise.CauseDiskFull},
		"full disk, borne":       {runner.Result{DiskFull: true}, promise.CauseOK},
		"full disk, then killed": {runner.Result{End: runner.Signalled, Signal: 15, DiskFull: true}, promise.CauseDiskFull},
		"both":                   {runner.Result{Code: 1, OOM: true, DiskFull: true}, promise.CauseOutOfMemory},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.hire("w1", func(context.Context, runner.Job) runner.Result { return c.res }, nil)
				w.submit("a", nil)
				rec := w.settled("a", time.Minute)
				if rec.Outcome.Cause != c.want || rec.Outcome.ExitCode != c.res.Code || rec.Outcome.Signal != int(c.res.Signal) {
					t.Errorf("%+v, want %s", rec.Outcome, c.want)
				}
			})
		})
	}
}

// The output of a failed attempt is read from the blobs, for no outcome of it
// is kept.
func TestOutputOfARetriedAttempt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			fmt.Fprint(job.Stderr, "attempt ", envOf(job, "MODULATE_ATTEMPT"))
			return runner.Result{Code: 1}
		}, nil)
		w.submit("a", func(r *promise.Record) {
			r.Call.Retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 2, Delay: time.Second, MaxDelay: time.Second}
		})
		rec := w.settled("a", time.Minute)
		if got := w.blob(blob.LogKey("a", 1, "stderr", 0)); string(got) != "attempt 1" {
			t.Errorf("the first attempt's output is %q", got)
		}
		if got := w.logOf(rec, "stderr"); got != "attempt 2" {
			t.Errorf("the last one's is %q", got)
		}
	})
}

func TestBlobsThatAreMissing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			_, err := job.Script()
			return runner.Result{End: runner.Failed, Err: err}
		}, nil)
		w.submit("a", func(r *promise.Record) { r.Call.Script = promise.Hash{1} })
		w.submit("b", func(r *promise.Record) { r.Call.Stdin = promise.Hash{2} })
		w.submit("c", func(r *promise.Record) { r.Call.Runtime = "cobol" })
		for _, id := range []string{"a", "b", "c"} {
			rec := w.settled(id, 2*time.Hour)
			if rec.Outcome.Error.Detail == "" || rec.Outcome.Version == 0 {
				t.Errorf("%s does not say why: %+v", id, rec.Outcome)
			}
			if rec.Outcome.Cause != promise.CauseExhausted || rec.Attempts[0].Cause != promise.CauseBadHost {
				t.Errorf("%s: cause %s, the first attempt %s", id, rec.Outcome.Cause, rec.Attempts[0].Cause)
			}
		}
		if w.log.count(`no runtime \"cobol\"; it has python`) == 0 {
			t.Errorf("the log does not say why:\n%s", w.log.String())
		}
	})
}

// Blobs that are away for a while hold up the settle and lose nothing; away
// for long, another host is to try.
func TestBlobsThatAreAway(t *testing.T) {
	for _, c := range []struct {
		name string
		away time.Duration
		want promise.Cause // of the first attempt
	}{{"for a while", 40 * time.Second, promise.CauseOK}, {"for long", 90 * time.Second, promise.CauseBadHost}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				one := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
					job.Stdout.Write(bytes.Repeat([]byte("y"), 5000))
					return runner.Result{}
				}, nil)
				one.host.blobs.down.Store(true)
				time.AfterFunc(c.away, func() { one.host.blobs.down.Store(false) })
				w.submit("a", nil)
				rec := w.settled("a", 5*time.Minute)
				if got := rec.Attempts[0].Cause; got != c.want {
					t.Errorf("the first attempt ended with %s, want %s", got, c.want)
				}
				if got := w.logOf(rec, "stdout"); len(got) != 5000 {
					t.Errorf("%d bytes of output, want 5000", len(got))
				}
			})
		})
	}
}

// Failure 40: of a flood the first and the last 8 MiB are kept.
func TestFloodIsCut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const more = 1 << 20
		w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			job.Stdout.Write(bytes.Repeat([]byte("a"), api.MaxLog/2))
			job.Stdout.Write(bytes.Repeat([]byte("b"), more))
			job.Stdout.Write(bytes.Repeat([]byte("c"), api.MaxLog/2))
			return runner.Result{}
		}, nil)
		w.submit("a", nil)
		rec := w.settled("a", time.Minute)
		if s := rec.Outcome.Stdout; s.Size != api.MaxLog+more || s.Cut != more || !s.Stored {
			t.Errorf("%d bytes, %d cut, stored %v", s.Size, s.Cut, s.Stored)
		}
		got := w.logOf(rec, "stdout")
		if want := strings.Repeat("a", api.MaxLog/2) + "…" + strings.Repeat("c", api.MaxLog/2); got != want {
			t.Errorf("%d bytes of output are not the head and the tail", len(got))
		}
	})
}
