package worker

import "time"

// HistogramBounds are the upper bounds of a Histogram's buckets, in seconds:
// from a parked interpreter's start to a day in a queue.
var HistogramBounds = [...]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400}

// A Histogram counts durations.
type Histogram struct {
	Counts [len(HistogramBounds)]uint64 // by the first bound that is not less
	Count  uint64                       // all of them, those beyond the last bound too
	Sum    float64                      // seconds
}

// observe counts d; what is less than nothing, by clocks that differ, as 0.
func (h *Histogram) observe(d time.Duration) {
	s := max(0, d.Seconds())
	h.Count++
	h.Sum += s
	for i, bound := range HistogramBounds {
		if s <= bound {
			h.Counts[i]++
			return
		}
	}
}
