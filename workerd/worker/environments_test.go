package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// environments gives a worker a cache whose uv is a shell script.
func environments(t *testing.T, script string) func(*Config) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "uv")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	cache, err := uv.Open(uv.Config{Dir: filepath.Join(dir, "cache"), Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Environments = cache }
}

// submitScript submits a script of the runtime uv.
func (w *world) submitScript(id, text string) {
	w.t.Helper()
	sum := promise.Hash(sha256.Sum256([]byte(text)))
	if err := w.blobs.Put(w.t.Context(), blob.ContentKey(sum), strings.NewReader(text), int64(len(text)), sum); err != nil {
		w.t.Fatal(err)
	}
	w.submit(id, func(r *promise.Record) { r.Call.Runtime, r.Call.Script = "uv", sum })
}

const asks = "# /// script\n# dependencies = ['numpy']\n# ///\nimport numpy\n"

func TestScriptRunsInItsEnvironment(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var command []string
		c := w.hire("w1", func(_ context.Context, job runner.Job) runner.Result {
			command = job.Command
			return runner.Result{}
		}, environments(t, `mkdir -p "$VIRTUAL_ENV/bin"`))
		w.submitScript("a", asks)
		if rec := w.settled("a", time.Hour); rec.State != promise.Resolved {
			t.Errorf("%s, %+v", rec.State, rec.Outcome.Error)
		}
		c.fire()
		if len(command) != 3 || !strings.HasSuffix(command[0], "/env/bin/python") {
			t.Errorf("it was run by %q", command)
		}
	})
}

// What cannot be installed is the script's doing, and it says what uv says.
func TestDependenciesThatAreNotThere(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", nil, environments(t, "echo 'error: no such package'; exit 1"))
		w.submitScript("a", asks)
		rec := w.settled("a", time.Hour)
		out := rec.Outcome
		if rec.State != promise.Rejected || out.Cause != promise.CauseExit || out.ExitCode != 1 || !strings.HasSuffix(out.Error.Type, "dependencies") {
			t.Errorf("%s, outcome %+v", rec.State, out)
		}
		if !bytes.Contains(out.Stderr.Tail, []byte("error: no such package")) {
			t.Errorf("its stderr is %q", out.Stderr.Tail)
		}
		if len(c.scripts.started()) > 0 {
			t.Error("it was run without them")
		}
	})
}

// No way to the packages is the host's doing: another may have one.
func TestDependenciesThatCannotBeFetched(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", nil, environments(t, "echo 'error: Request failed after 3 retries'; echo '  cause: Failed to fetch: http://index'; exit 2"))
		w.submitScript("a", asks)
		rec := w.settled("a", 10*time.Hour)
		if rec.Outcome.Cause != promise.CauseExhausted || rec.Attempts[0].Cause != promise.CauseBadHost ||
			!strings.Contains(rec.Outcome.Error.Detail, "is there a way to a package index") {
			t.Errorf("attempts %+v, outcome %+v", rec.Attempts, rec.Outcome)
		}
	})
}

func TestNoEnvironmentsHere(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hire("w1", nil, nil)
		w.submitScript("a", asks)
		rec := w.settled("a", 10*time.Hour)
		if !strings.Contains(rec.Outcome.Error.Detail, `no runtime "uv": uv is not installed on this machine (pip install uv)`) {
			t.Errorf("outcome %+v", rec.Outcome)
		}
	})
}
