package runner

// A PoolReport is what a Runner has ready for the jobs to come.
type PoolReport struct {
	Keepers   int    // idle
	Sandboxes int    // of them, those in which an interpreter waits
	Cold      uint64 // jobs for which nothing was ready: no keeper, or no sandbox with their interpreter
}

// Pooled is a [Runner] that starts things ahead of its jobs.
type Pooled interface {
	Runner
	Pool() PoolReport
}
