//go:build !linux

package runner

import (
	"context"
	"time"
)

// Kept is for Linux: [OpenKept] makes none here.
type Kept struct{}

var (
	_ Adopter = (*Kept)(nil)
	_ Pooled  = (*Kept)(nil)
)

// OpenKept fails with ErrNoKeepers.
func OpenKept(KeptConfig) (*Kept, error) { return nil, ErrNoKeepers }

// Close does nothing.
func (*Kept) Close() error { return nil }

// Run implements [Runner].
func (*Kept) Run(context.Context, Job) Result { return failed(ErrNoKeepers) }

// Adopt implements [Adopter].
func (*Kept) Adopt() ([]Orphan, error) { return nil, ErrNoKeepers }

// Pool implements [Pooled].
func (*Kept) Pool() PoolReport { return PoolReport{} }

// Boottime is a time for [Lease]; nobody enforces one here.
func Boottime() time.Duration { return time.Duration(time.Now().UnixNano()) }

// byShortPath calls do with path.
func byShortPath(path string, do func(short string) error) error { return do(path) }

// BeKeeper reports that this binary was not started as a keeper.
func BeKeeper([]string) (code int, was bool) { return 0, false }
