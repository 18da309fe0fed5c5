package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modulate/internal/api"
	"modulate/internal/local"
)

// A machineWithGPUs has two devices. Its nvidia-smi tells of a process on the
// first while the file busy is there.
func machineWithGPUs(t *testing.T) (busy string) {
	t.Helper()
	dir := t.TempDir()
	busy = filepath.Join(dir, "busy")
	const script = `#!/bin/sh
[ "$1" = -q ] || exec sleep 600
echo '<nvidia_smi_log>'
for n in 0 1; do
  echo "<gpu><product_name>Fake</product_name><uuid>GPU-$n</uuid><minor_number>$n</minor_number>"
  echo '<fb_memory_usage><total>16384 MiB</total><used>1 MiB</used></fb_memory_usage>'
  if [ $n = 0 ] && [ -e '%s' ]; then
    echo '<processes><process_info><pid>4242</pid><type>C</type><process_name>left</process_name></process_info></processes>'
  fi
  echo '</gpu>'
done
echo '</nvidia_smi_log>'
`
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), fmt.Appendf(nil, script, busy), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return busy
}

// A directory is a store, as a test sees it beside a worker.
type directory struct {
	*api.Client
	dir string
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	dir := t.TempDir()
	l, err := local.Open(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &directory{api.NewClient(serve(t, l.Handler()), nil), dir}
}

// run runs a Python script to its end.
func (d *directory) run(t *testing.T, id, source string) api.Promise {
	t.Helper()
	_, _, err := d.Submit(t.Context(), api.Submit{ID: id, Machine: "cpu", Script: api.Script{Name: "x.py", Source: &source}}, api.SubmitOptions{Async: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	p, err := d.WaitTerminal(ctx, id, nil)
	if err != nil {
		t.Fatalf("waiting for the end of %s: %v", id, err)
	}
	return p
}

// The real daemon with an nvidia-smi of ours: a slot for each device, each
// script is told of its own, and a device that is not empty takes its slot out.
func TestGPUs(t *testing.T) {
	if testing.Short() {
		t.Skip("a device is quarantined after 15 s; not for short tests")
	}
	busy := machineWithGPUs(t)
	d := newDirectory(t)
	defer d.Close()
	r := start(t, "--dir", d.dir, "--no-sweep", "--config", openMachine(t))
	if !strings.Contains(r.said, "2 slots") {
		t.Errorf("it said %q, want a slot for each device", r.said)
	}
	const tells = "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])\n"
	seen := map[string]bool{}
	for n := range 4 {
		p := d.run(t, fmt.Sprint("a", n), tells)
		seen[strings.TrimSpace(p.Outcome.Stdout.Tail)] = true
	}
	if len(seen) != 2 || !seen["GPU-0"] || !seen["GPU-1"] {
		t.Errorf("four scripts were told of %v", seen)
	}
	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for n := range 2 { // one of them on the first
		d.run(t, fmt.Sprint("b", n), tells)
	}
	r.shows(t, http.StatusOK, "GPU-0) is lent to nobody: process 4242 (left) still on it")
	if _, page := r.get(t, "/metrics"); !strings.Contains(page, "\nmodulate_quarantined_devices 1\n") {
		t.Errorf("the metrics do not say so:\n%s", page)
	}
	if !strings.Contains(r.errs.String(), "quarantined") {
		t.Errorf("the log does not say so: %s", r.errs)
	}
	for n := range 3 {
		if p := d.run(t, fmt.Sprint("c", n), tells); strings.TrimSpace(p.Outcome.Stdout.Tail) != "GPU-1" {
			t.Errorf("a script got %q", p.Outcome.Stdout.Tail)
		}
	}
}

func TestMoreSlotsThanGPUs(t *testing.T) {
	machineWithGPUs(t)
	var out, errs lines
	code := run(t.Context(), []string{"--dir", t.TempDir(), "--slots", "3", "--config", openMachine(t)}, func(string) string { return "" }, &out, &errs)
	if code != exitInput || !strings.Contains(errs.String(), "--slots 3: this machine has 2 GPUs") {
		t.Errorf("exit %d: %s", code, &errs)
	}
}
