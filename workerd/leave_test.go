package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/promise"
)

// An instance's metadata, which says by then that the instance goes away.
func newMetadata(t *testing.T) (url string, by *atomic.Pointer[time.Time]) {
	t.Helper()
	by = &atomic.Pointer[time.Time]{}
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch at := by.Load(); {
		case r.Method == http.MethodPut:
			io.WriteString(w, "token")
		case strings.HasSuffix(r.URL.Path, "/spot/instance-action") && at != nil:
			io.WriteString(w, `{"action": "terminate", "time": "`+at.UTC().Format(time.RFC3339)+`"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})), by
}

// Failure 26, by the real daemon: the script gets SIGTERM in good time, its
// task is given back for the spot market, and the daemon stays without taking
// any more.
func TestSpotNotice(t *testing.T) {
	if testing.Short() {
		t.Skip("a look at the metadata comes every 5 s; not for short tests")
	}
	endpoint, by := newMetadata(t)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
	dir := t.TempDir()
	l, err := local.Open(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := api.NewClient(serve(t, l.Handler()), nil)
	defer client.Close()
	submit := func(id string) {
		t.Helper()
		source := "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
		_, _, err := client.Submit(t.Context(), api.Submit{
			ID: id, Machine: "cpu", Script: api.Script{Name: "x.py", Source: &source},
		}, api.SubmitOptions{Async: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	record := func(id string) promise.Record {
		t.Helper()
		rec, err := l.Store.Get(context.WithoutCancel(t.Context()), id)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	submit("a")
	r := start(t, "--dir", dir, "--slots", "1", "--notices", "--drain", "1h", "--no-sweep", "--log", "json")
	eventually(t, func() bool { return record("a").Task.State == promise.TaskAcquired })
	soon := time.Now().Add(5 * time.Second)
	by.Store(&soon)
	eventually(t, func() bool { return record("a").Task.State == promise.TaskPending })
	if rec := record("a"); rec.Attempts[0].Cause != promise.CauseSpot || rec.Drains != 1 {
		t.Errorf("the attempt ended by %q, %d drains", rec.Attempts[0].Cause, rec.Drains)
	}
	submit("b")
	r.shows(t, http.StatusServiceUnavailable, "it is to stop")
	if status, _ := r.get(t, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz says %d: to start the daemon again would take work to lose", status)
	}
	select {
	case <-r.ended:
		t.Error("it ended: whoever keeps it running starts it again")
	default:
	}
	if record("b").Attempt != 0 {
		t.Error("it goes on receiving")
	}
	if said := r.errs.String(); !strings.Contains(said, `"cause":"spot"`) || strings.Contains(said, "level=") {
		t.Errorf("it said\n%s\nwant a line of JSON about it", said)
	}
	r.stop()
	r.wait(t)

	again := start(t, "--dir", dir, "--slots", "1", "--notices", "--no-sweep")
	again.shows(t, http.StatusServiceUnavailable, "it is to stop")
	if rec := record("b"); rec.Attempt != 0 {
		t.Error("started again it takes work before it asks")
	}
}
