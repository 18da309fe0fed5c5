package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// A figure is one line of the report: a median over rounds, the floor measured
// in the same run, and what we mean to reach.
type figure struct {
	name  string
	unit  string
	value float64
	floor string // what the floor is and its median, or "-"
	reach float64
	atMin bool // reach is a minimum, not a maximum
}

// print writes the figure: name, median, unit, floor, reach, ok or short,
// separated by tabs.
func (f figure) print(w io.Writer) {
	sign, ok := "<=", f.value <= f.reach
	if f.atMin {
		sign, ok = ">=", f.value >= f.reach
	}
	verdict := "ok"
	if !ok {
		verdict = "short"
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s %s\t%s\n", f.name, number(f.value), f.unit, f.floor, sign, number(f.reach), verdict)
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func median(v []float64) float64 { return percentile(v, 50) }

// percentile returns the p-th percentile (nearest rank) of v.
func percentile(v []float64, p int) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, len(s)*p/100)]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// timed returns how long fn took, in milliseconds.
func timed(fn func() error) (float64, error) {
	start := time.Now()
	err := fn()
	return millis(time.Since(start)), err
}
