package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"modulate/workerd/worker"
)

// A health tells at a loopback address how the worker is doing:
//
//	/healthz   200 for as long as the process answers: to start it anew would mend nothing that /readyz tells of
//	/readyz    200 while it takes work, or 503 with a line for each reason
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
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", h.readyz)
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

// readyz tells of quarantined devices too: with others left it is ready.
func (h health) readyz(w http.ResponseWriter, _ *http.Request) {
	r := h.worker()
	lines := slices.Concat(r.Troubles, h.host().troubles)
	if len(lines) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	} else {
		lines = append([]string{"ok"}, r.Devices.Quarantined...)
	}
	io.WriteString(w, strings.Join(lines, "\n")+"\n")
}
