package runner_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modulate/workerd/runner"
)

// BenchmarkHello runs a hello-world beside its floor, the same interpreter
// spawned bare, turn by turn. It reports medians in milliseconds.
func BenchmarkHello(b *testing.B) {
	python, err := runner.Python()
	if err != nil {
		b.Fatal(err)
	}
	const script = "print('hello')\n"
	path := filepath.Join(b.TempDir(), "hello.py")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		b.Fatal(err)
	}
	floor := func() {
		cmd := exec.Command(python, "-I", "-S", path)
		cmd.Env = []string{"PATH=" + runner.DefaultPath} // no locale to load, as in a run
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil || out.String() != "hello\n" {
			b.Fatal(out.String(), err)
		}
	}
	spares := &runner.Spares{}
	defer spares.Close()
	exe := runner.Exec{Dir: b.TempDir(), Spares: spares}
	run := func() {
		var out, errs bytes.Buffer
		res := exe.Run(b.Context(), runner.Job{
			Command: []string{python, "-I", "-S"}, Name: "hello.py",
			Script: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(script)), nil },
			Stdout: &out, Stderr: &errs,
		})
		if res.End != runner.Exited || res.Err != nil || out.String() != "hello\n" {
			b.Fatalf("%+v %q", res, out.String())
		}
	}
	var floors, runs, diffs []float64
	for b.Loop() {
		f, r := timed(floor), timed(run)
		floors, runs, diffs = append(floors, f), append(runs, r), append(diffs, r-f)
	}
	b.ReportMetric(median(floors), "floor-ms")
	b.ReportMetric(median(runs), "run-ms")
	b.ReportMetric(median(diffs), "more-ms")
}

func timed(f func()) float64 {
	begin := time.Now()
	f()
	return time.Since(begin).Seconds() * 1e3
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
