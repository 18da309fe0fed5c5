package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"modulate/workerd/worker"
)

// A health tells at a loopback address how the worker is doing:
//
//	/healthz   200, or 503 with a line for each reason
//	/metrics   figures in Prometheus's text format
type health struct {
	worker func() worker.Report
	host   func() hostReport
}

// hostReport is what a site knows of this machine beyond the worker.
type hostReport struct {
	troubles []string
	skew     time.Duration // AWS's clock is ahead by that much; 0 without AWS
}

// serveHealth answers at address until ctx ends. It returns where, and what
// waits for the end of it.
func serveHealth(ctx context.Context, address string, h health) (at string, wait func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("--health: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.healthz)
	mux.HandleFunc("GET /metrics", h.metrics)
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	return "http://" + listener.Addr().String(), func() { <-done }, nil
}

func (h health) healthz(w http.ResponseWriter, _ *http.Request) {
	if troubles := h.troubles(); len(troubles) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, strings.Join(troubles, "\n")+"\n")
		return
	}
	io.WriteString(w, "ok\n")
}

func (h health) troubles() []string {
	return slices.Concat(h.worker().Troubles, h.host().troubles)
}

func (h health) metrics(w http.ResponseWriter, _ *http.Request) {
	r := h.worker()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	gauge := func(name, help string, value float64) {
		fmt.Fprintf(w, "# HELP modulate_%s %s\n# TYPE modulate_%[1]s gauge\nmodulate_%[1]s %[3]g\n", name, help, value)
	}
	counter := func(name, help string, values map[string]uint64) {
		fmt.Fprintf(w, "# HELP modulate_%s %s\n# TYPE modulate_%[1]s counter\n", name, help)
		for _, label := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(w, "modulate_%s%s %d\n", name, label, values[label])
		}
	}
	gauge("troubles", "Reasons why the worker does not do its work, as in /healthz", float64(len(h.troubles())))
	gauge("slots", "Attempts that may run at once", float64(r.Slots))
	gauge("running_attempts", "Attempts that run", float64(r.Running))
	gauge("kept_outcomes", "Outcomes that wait on disk for the store", float64(r.Kept))
	gauge("clock_skew_seconds", "How far AWS's clock is ahead of this machine's, as the latest answer told", h.host().skew.Seconds())
	if !r.LastReceive.IsZero() {
		gauge("since_receive_seconds", "Since the queue last answered; it is not asked while no slot is free", time.Since(r.LastReceive).Seconds())
	}
	byCause := make(map[string]uint64)
	for cause, n := range r.Attempts {
		byCause[fmt.Sprintf("{cause=%q}", cause)] = n
	}
	counter("ended_attempts_total", "Attempts that have ended, by cause", byCause)
	counter("received_messages_total", "Messages that were received", map[string]uint64{"": r.Received})
	counter("unproven_extensions_total", "Extensions of a lease that got no answer", map[string]uint64{"": r.Unproven})
}
