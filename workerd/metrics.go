package main

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"modulate/workerd/worker"
)

// metrics tells all figures, in Prometheus's text format 0.0.4.
func (h health) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	r, host := h.worker(), h.host()
	p := page{bufio.NewWriter(w)}
	defer p.Flush()
	p.gauge("troubles", "Reasons why the worker does not do its work, as in /readyz", float64(len(r.Troubles)+len(host.troubles)))
	p.gauge("slots", "Attempts that may run at once", float64(r.Slots))
	p.gauge("running_attempts", "Attempts that run", float64(r.Running))
	p.gauge("kept_outcomes", "Outcomes that wait in the spool for the store", float64(r.Kept))
	p.gauge("clock_skew_seconds", "How far AWS's clock is ahead of this machine's, as the latest answer told", host.skew.Seconds())
	if !r.LastReceive.IsZero() {
		p.gauge("since_receive_seconds", "Since the queue last answered; it is not asked while no slot is free", time.Since(r.LastReceive).Seconds())
	}
	p.gauge("devices", "GPUs that are lent to scripts", float64(r.Devices.Devices))
	p.gauge("quarantined_devices", "GPUs that were not empty after a script, and are lent to nobody", float64(len(r.Devices.Quarantined)))
	p.gauge("idle_keepers", "Keepers that wait for a script", float64(r.Pool.Keepers))
	p.gauge("ready_sandboxes", "Sandboxes in which an interpreter waits for a script", float64(r.Pool.Sandboxes))
	byCause := make(map[string]uint64)
	for cause, n := range r.Attempts {
		byCause[fmt.Sprintf("{cause=%q}", cause)] = n
	}
	p.counter("ended_attempts_total", "Attempts that have ended, by cause", byCause)
	p.counter("received_messages_total", "Messages that were received", map[string]uint64{"": r.Received})
	p.counter("claims_total", "Tasks that were claimed for a message", map[string]uint64{"": r.Claimed})
	p.counter("extensions_total", "Extensions of a lease that the store has taken", map[string]uint64{"": r.Extended})
	p.counter("cold_starts_total", "Scripts for which nothing was ready", map[string]uint64{"": r.Pool.Cold})
	p.counter("unproven_extensions_total", "Extensions of a lease that got no answer", map[string]uint64{"": r.Unproven})
	p.histogram("queue_wait_seconds", "From a message's sending to the claim of its task", r.QueueWait)
	p.histogram("start_latency_seconds", "From a message's arrival to the start of its script", r.StartLatency)
	p.histogram("lease_margin_seconds", "What was left before a script would have been killed, when its lease was extended", r.LeaseMargin)
}

// A page is an answer to Prometheus.
type page struct{ *bufio.Writer }

func (p page) head(name, kind, help string) {
	fmt.Fprintf(p, "# HELP modulate_%s %s\n# TYPE modulate_%[1]s %[3]s\n", name, help, kind)
}

func (p page) gauge(name, help string, value float64) {
	p.head(name, "gauge", help)
	fmt.Fprintf(p, "modulate_%s %g\n", name, value)
}

// counter tells values by their labels.
func (p page) counter(name, help string, values map[string]uint64) {
	p.head(name, "counter", help)
	for _, label := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(p, "modulate_%s%s %d\n", name, label, values[label])
	}
}

// histogram tells of each bound how many were not above it.
func (p page) histogram(name, help string, h worker.Histogram) {
	p.head(name, "histogram", help)
	sum := uint64(0)
	for i, bound := range worker.HistogramBounds {
		sum += h.Counts[i]
		fmt.Fprintf(p, "modulate_%s_bucket{le=\"%g\"} %d\n", name, bound, sum)
	}
	fmt.Fprintf(p, "modulate_%s_bucket{le=\"+Inf\"} %d\nmodulate_%[1]s_sum %[3]g\nmodulate_%[1]s_count %[2]d\n", name, h.Count, h.Sum)
}
